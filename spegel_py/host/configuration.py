"""Writing hosts.toml files, so that containerd asks the mirror first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from spegel_py import values
from spegel_py.host import original
from spegel_py.host.changes import ChangeKind, RegistryChange, changes, diff
from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import Entry, Folder
from spegel_py.host.host_files import read
from spegel_py.host.http_probe import MirrorAnswer, ask_mirror
from spegel_py.host.mirroring import HOSTS, KeptHosts, Mirroring, is_made
from spegel_py.host.own_names import BACKUP
from spegel_py.host.registries import parse_registries, parse_targets
from spegel_py.host.runtimes import RUNTIME, RUNTIME_FILE
from spegel_py.node_name import NODE_NAME, RUNTIME_TOKEN
from spegel_py.settings import Setting
from spegel_py.telemetry.logging import REPORTING
from spegel_py.tools.runtime_token import known_tokens, new_token, write_tokens

log = structlog.get_logger(__name__)

START = (
    "start spegel-py registry, unless it starts after this by itself; pulls go upstream at once "
    "until then"
)

WAITS = (
    "see what listens there, and whether a firewall drops its packets: until then pulls may wait "
    "there, "
    "with containerd 1.6 for minutes; spegel-py cleanup takes the mirror out"
)


def config_path(given: Any) -> Path:
    """Return a folder's path with links followed. Raises ValueError for empty text."""
    if found := values.path(given):
        return Path(os.path.realpath(found))
    raise ValueError("it is empty: name the folder of containerd's config_path")


CONFIG_PATH = Setting(
    "containerd_registry_config_path",
    config_path,
    Path("/etc/containerd/certs.d"),
    "the folder that is config_path in containerd's configuration",
)

SETTINGS = (
    *REPORTING,
    CONFIG_PATH,
    RUNTIME,
    RUNTIME_FILE,
    Setting(
        "mirrored_registries",
        lambda given: parse_registries(values.texts(given)),
        (),
        (
            "registries to mirror, such as docker.io, or http://10.0.0.9:5000 without TLS; "
            "_default, * or none means all, and may stand beside others"
        ),
        many=True,
    ),
    Setting(
        "mirror_targets",
        lambda given: parse_targets(values.texts(given)),
        (),
        "mirrors to ask, in this order, such as http://127.0.0.1:5000",
        many=True,
    ),
    NODE_NAME,
    RUNTIME_TOKEN,
    Setting(
        "resolve_tags",
        values.boolean,
        True,
        "ask the mirror for tags too; if false, for digests only",
    ),
    Setting(
        "prepend_existing",
        KeptHosts.parse,
        KeptHosts.NONE,
        (
            "keep the previous hosts of the named registries, after the mirror, or with all those "
            "of every registry; all other files are set aside until cleanup"
        ),
        choices=tuple(KeptHosts),
    ),
    Setting(
        "containerd_sock",
        values.path,
        None,
        (
            "containerd's socket, to fail if containerd reports that it does not read the "
            "folder; none: no check"
        ),
    ),
)


def configure(root: Path, mirroring: Mirroring, disk: Disk) -> list[RegistryChange]:
    """Write the mirrors' files to `root`, and keep the original; a second run changes nothing.

    Returns the changes per registry.
    """
    found: list[RegistryChange] = []

    def plan(before: Folder) -> Mapping[str, Entry]:
        wanted, present = mirroring.plan(before, root=root, outside=read), original.present(root)
        found.extend(_explained(mirroring, before, present, wanted))
        return wanted

    copies = original.change(root, plan, disk, is_made=is_made)
    return [replace(one, copy=copies.get(one.name)) for one in found]


@contextmanager
def renewed_token(path: Path | None) -> Iterator[str]:
    """Make a new runtime token and give it; empty without a file.

    The file has it before hosts.toml does, so the node knows it from containerd's first request on.
    If the block fails, hosts.toml has an earlier token, and so the file is put back. Raises
    ConfigError.
    """
    if path is None:
        yield ""
        return
    before, token = known_tokens(path), new_token()
    write_tokens(path, (token, *before))
    try:
        yield token
    except BaseException:
        write_tokens(path, before)
        raise


def preview(root: Path, mirroring: Mirroring) -> tuple[list[RegistryChange], Iterator[str]]:
    """Return the changes that `configure` would make, and the lines of their diff."""
    before, present = original.look(root)
    wanted = mirroring.plan(before, root=root, outside=read)
    copies = original.edited(root, wanted)
    found = _explained(mirroring, before, present, wanted)
    return (
        [replace(one, copy=copies.get(one.name)) for one in found],
        diff(present, wanted, root=root),
    )


def _explained(
    mirroring: Mirroring,
    before: Folder,
    present: Mapping[str, Entry],
    wanted: Mapping[str, Entry],
) -> list[RegistryChange]:
    """Return the changes with their remedies, the settings that stay set aside included."""
    found = changes(present, wanted, before.entries)
    removed = [one.name for one in found if one.kind is ChangeKind.REMOVED]
    lost = mirroring.with_registries({name: present[name] for name in removed})
    aside = {name: mirroring.keeping(name) for name in mirroring.set_aside(before, wanted)}
    remedies = dict.fromkeys(removed, lost)
    rows = [
        replace(one, remedy=remedies.get(one.name, ""))
        for one in found
        if one.kind is not ChangeKind.SET_ASIDE
    ]
    once = {one.name: "" for one in found if one.kind is ChangeKind.SET_ASIDE} | aside
    return rows + [RegistryChange(name, ChangeKind.SET_ASIDE, each) for name, each in once.items()]


def log_changes(root: Path, found: Sequence[RegistryChange]) -> None:
    """Log a line for each registry; a warning means that it loses something."""
    for one in found:
        _log_change(root, one)
    kept = (ChangeKind.KEPT, ChangeKind.SET_ASIDE)
    changed = [one.name for one in found if one.kind not in kept]
    log.info("containerd is configured", path=str(root), changed=changed)


def _log_change(root: Path, one: RegistryChange) -> None:
    path = str(root / one.name)
    if one.copy is not None:
        log_edited(root, one)
    match one.kind:
        case ChangeKind.ADDED:
            log.info("mirror added", registry=one.registry, path=path)
        case ChangeKind.KEPT:
            log.info("mirror kept", registry=one.registry, path=path)
        case ChangeKind.REMOVED:
            log.warning("mirror removed", registry=one.registry, path=path, remedy=one.remedy)
        case ChangeKind.SET_ASIDE if one.remedy:
            log.warning("set aside until cleanup", path=path, remedy=one.remedy)
        case ChangeKind.SET_ASIDE:
            pass  # containerd did not use it
        case _:
            log.info("mirror changed", registry=one.registry, path=path)


def log_edited(root: Path, one: RegistryChange) -> None:
    """Log that an entry was changed by hand, and where its copy is."""
    log.warning(
        "changed by hand since the last run",
        registry=one.registry,
        path=str(root / one.name),
        copy=str(one.copy),
        remedy=lasting(root, one),
    )


def lasting(root: Path, one: RegistryChange) -> str:
    """Return the advice how a setting of a registry outlasts the next run."""
    place = root / BACKUP / one.name / HOSTS
    return f"to keep a setting, put it into {place}, name the registry, and give --prepend-existing"


async def ask_mirrors(targets: Sequence[str]) -> dict[str, MirrorAnswer]:
    """Ask each mirror once, for 2 s at most, and return its answer; never raises.

    No answer to this question needs a password or a token.

    The files are written already, and stay: the registry may start only after this command ends.
    """
    answers = await asyncio.gather(*map(ask_mirror, targets))
    return dict(zip(targets, answers, strict=True))


def log_answers(answers: Mapping[str, MirrorAnswer]) -> None:
    """Log each mirror's answer; a warning means that pulls are slow until somebody acts."""
    for mirror, answer in answers.items():
        if answer.is_up:
            log.info("the mirror answers", mirror=mirror, answer=answer.text)
        elif answer.is_refused:
            # This ran as an init container, or before a service's start: the registry starts later.
            log.info("no mirror listens there yet", mirror=mirror, remedy=START)
        else:
            log.warning(
                "the mirror does not answer", mirror=mirror, answer=answer.text, remedy=WAITS
            )


def about_answer(mirror: str, answer: MirrorAnswer) -> str:
    """Return the sentence about a mirror's answer, with the remedy."""
    if answer.is_up:
        return f"the mirror {mirror} answers: {answer.text}"
    if answer.is_refused:
        return f"no mirror listens at {mirror} yet: {START}"
    return f"the mirror {mirror} does not answer ({answer.text}): {WAITS}"
