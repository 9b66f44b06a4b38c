"""Gathers all facts at the same time; a fact that hangs or fails does not affect other facts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from spegel_py.errors import SpegelError
from spegel_py.host.doctor import config_file, environment, hosts_files, node_queries, rights
from spegel_py.host.doctor.containerd_checks import STANDARD_FOLDER, image_settings, roots
from spegel_py.host.doctor.facts import (
    ContentState,
    Facts,
    FileSettings,
    HostsFile,
    NodeState,
    ProxySettings,
    Pull,
    Subject,
    Unknown,
)
from spegel_py.host.http_probe import ask_mirror
from spegel_py.oci.manifest import MANIFESTS
from spegel_py.oci.reference import Reference
from spegel_py.store.containerd import (
    Client,
    ImageSettings,
    check_content_path,
    check_socket,
    content_root,
    cri_status,
    look,
)
from spegel_py.tools.threads import run_detached

T = TypeVar("T")

DEADLINE = 3.0
"""Seconds for one fact: everything is on this machine, and answers within milliseconds."""


async def gather(subject: Subject, *, from_inside: bool = False) -> Facts:
    """Return the facts;

    `from_inside` skips the facts about the node itself, which is the caller.
    """
    if subject.is_layout:
        answer = await _fact(lambda: node_queries.state(subject.metrics, timeout=DEADLINE))
        return Facts(subject=subject, node=await _fact(lambda: _dated(answer)))
    given = subject.containerd_config or await _config_file(subject.socket)
    if isinstance(given, Path):
        subject = replace(subject, containerd_config=given)
    async with Client(
        socket=subject.socket, namespace=subject.namespace, timeout=DEADLINE
    ) as client:
        version, cri, file, content, node, pull = await asyncio.gather(
            _fact(lambda: _version(subject, client)),
            _fact(lambda: cri_status(client)),
            _fact(lambda: _file(subject, given)),
            _fact(lambda: _content(subject, client)),
            _absent()
            if from_inside
            else _fact(lambda: node_queries.state(subject.metrics, timeout=DEADLINE)),
            _absent() if from_inside else _fact(lambda: _pull(subject, client)),
        )
    facts = Facts(
        subject=subject, version=version, cri=cri, file=file, content=content, node=node, pull=pull
    )
    proxy, hosts, set_aside, closed, dated = await asyncio.gather(
        _fact(lambda: _proxy(subject, from_inside=from_inside)),
        _fact(lambda: _hosts(facts)),
        _fact(lambda: _set_aside(facts)),
        _fact(lambda: _closed(subject)),
        _fact(lambda: _dated(node)),
    )
    return replace(
        facts,
        proxy=proxy,
        hosts=None if from_inside and isinstance(hosts, Unknown) else hosts,
        set_aside=None if from_inside else set_aside,
        closed=() if isinstance(closed, Unknown) else closed,
        node=node if isinstance(dated, Unknown) else dated,
    )


async def gather_told(subject: Subject) -> Facts:
    """Return the facts that containerd reports over its socket: version and image settings."""
    async with Client(
        socket=subject.socket, namespace=subject.namespace, timeout=DEADLINE
    ) as client:
        version, cri = await asyncio.gather(
            _fact(lambda: _version(subject, client)), _fact(lambda: cri_status(client))
        )
    return Facts(subject=subject, version=version, cri=cri)


async def _fact(look: Callable[[], Awaitable[T]]) -> T | Unknown:
    try:
        async with asyncio.timeout(DEADLINE):
            return await look()
    except TimeoutError:
        return Unknown(f"no answer within {DEADLINE:g} s")
    except SpegelError as error:
        return Unknown(str(error))
    except OSError as error:
        return rights.unknown(error)
    except Exception as error:  # noqa: BLE001 - one failure must not hide other facts
        return Unknown(f"this could not be looked at: {error!r}")


async def _absent() -> None:
    return None


async def _config_file(socket: Path) -> Path | Unknown | None:
    """Return the file that the daemon was given.

    Unknown if its process may not be looked at, None if there is none, or if it was given no file.
    """
    try:
        return await run_detached(lambda: environment.config_of(socket))
    except PermissionError:
        return Unknown("the file that containerd was given is not seen", rights.AS_ROOT)
    except OSError:
        return None


async def _file(subject: Subject, given: Path | Unknown | None) -> FileSettings | Unknown:
    if isinstance(given, Unknown):
        return given
    return await run_detached(lambda: config_file.read(subject.config_file))


async def _version(subject: Subject, client: Client) -> str | Unknown:
    try:
        await run_detached(lambda: check_socket(subject.socket))
    except SpegelError as error:
        reason, _, remedy = str(error).partition("; ")
        return Unknown(reason, remedy)
    return await client.version()


async def _proxy(subject: Subject, *, from_inside: bool) -> ProxySettings | Unknown:
    found = await run_detached(lambda: environment.of_process(subject.socket))
    if isinstance(found, Unknown) and not from_inside and not subject.is_in_pod:
        return await run_detached(environment.of_service)
    return found


async def _hosts(facts: Facts) -> tuple[HostsFile, ...]:
    folders = _folders(facts)
    return await hosts_files.asked(
        await run_detached(lambda: hosts_files.read(folders, facts.subject.registries))
    )


async def _closed(subject: Subject) -> tuple[tuple[str, str, bool], ...]:
    answers = await asyncio.gather(*map(ask_mirror, subject.closed_at))
    return tuple(
        (url, one.text, one.is_up) for url, one in zip(subject.closed_at, answers, strict=True)
    )


async def _dated(node: NodeState | Unknown | None) -> NodeState | Unknown | None:
    return (
        await node_queries.dated(node, timeout=DEADLINE / 2)
        if isinstance(node, NodeState)
        else node
    )


async def _set_aside(facts: Facts) -> tuple[str, ...]:
    folders = _folders(facts)
    return await run_detached(
        lambda: tuple(name for folder in folders for name in hosts_files.set_aside(folder))
    )


def _folders(facts: Facts) -> tuple[Path, ...]:
    settings = image_settings(facts)
    searched = roots(settings) if isinstance(settings, ImageSettings) else ()
    return (facts.subject.certs,) if facts.subject.certs else searched or (STANDARD_FOLDER,)


async def _content(subject: Subject, client: Client) -> ContentState:
    """Read the folder, and compare it with containerd's list of blobs if containerd answers."""
    path = subject.content_path
    root, blobs = await asyncio.gather(_asked(content_root(client)), _asked(client.content()))
    if path is None:
        return ContentState(root=root)

    def look_at() -> ContentState:
        try:
            check_content_path(path)
        except SpegelError as error:
            problem, _, advice = str(error).partition("; ")
            is_right = root not in (None, path) and not look(Path(root or ""), blobs or ()).fault
            return ContentState(
                problem=problem, advice=advice, root=root, is_root_readable=is_right
            )
        seen = look(path, blobs or ())
        return ContentState(
            root=root, sample=None if blobs is None else seen.sample, found=seen.found
        )

    return await run_detached(look_at)


async def _asked(question: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(DEADLINE / 2):
            return await question
    except (SpegelError, TimeoutError):
        return None


async def _pull(subject: Subject, client: Client) -> Pull | Unknown | None:
    """Pull the smallest manifest that containerd holds through the mirror."""
    images, held = await asyncio.gather(_asked(client.images()), _asked(client.content()))
    if images is None or held is None:
        return None
    choice = [
        (image.target.size, str(reference), reference, image.target.digest)
        for image in images
        if image.target.media_type in MANIFESTS
        and image.target.digest in held
        and (reference := _reference(image.name)) is not None
        and not subject.filters.exclude(_label(reference))
    ]
    return (
        await node_queries.pull(subject, *min(choice)[2:], timeout=DEADLINE) if choice else Pull()
    )


def _reference(name: str) -> Reference | None:
    try:
        return Reference.parse(name)
    except SpegelError:
        return None


def _label(reference: Reference) -> str:
    return reference.name or f"{reference.registry}/{reference.repository}"
