"""The hosts.toml files that containerd finds, and the answers of the hosts in them."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spegel_py.errors import ConfigError
from spegel_py.host.doctor.facts import DEFAULT, HostsFile, MirrorHost
from spegel_py.host.host_files import read_text
from spegel_py.host.http_probe import MirrorAnswer, ask_mirror
from spegel_py.host.own_names import BACKUP, is_own
from spegel_py.host.registries import registry_of
from spegel_py.oci.distribution import NODE_HEADER, RUNTIME_HEADER
from spegel_py.tools.addresses import registry_folders
from spegel_py.tools.runtime_token import fingerprint

MAX_FILES = 64
"""Numbers of folders read, if all registries are mirrored, and of hosts asked, at most."""

HOSTS = "hosts.toml"


def read(roots: Sequence[Path], registries: Sequence[str]) -> tuple[HostsFile, ...]:
    """Return the files that containerd finds in `roots`: of the registries, and all others.

    No registries means all: the default file. Raises ConfigError if no root can be listed.
    """
    names = _folders(roots)
    wanted = [host_of(each) for each in registries] or [DEFAULT]
    present = [registry_of(name) for name in names if not is_own(name)][:MAX_FILES]
    others = [name for name in dict.fromkeys(present) if name not in wanted]
    return (
        *(_find(roots, registry) for registry in wanted),
        *(replace(_find(roots, registry), is_asked=False) for registry in others),
    )


def host_of(registry: str) -> str:
    """Return the `host[:port]` of a registry, which may be a URL."""
    return urlsplit(registry).netloc if "://" in registry else registry


async def asked(files: Iterable[HostsFile]) -> tuple[HostsFile, ...]:
    """Return the files with the answers of their hosts."""
    found = tuple(files)
    urls = sorted({mirror.url for file in found for mirror in file.mirrors})[:MAX_FILES]
    answers = dict(zip(urls, await asyncio.gather(*map(ask_mirror, urls)), strict=True))

    def met(mirror: MirrorHost) -> MirrorHost:
        answer = answers.get(mirror.url, MirrorAnswer("not asked"))
        return replace(
            mirror, is_spegel=answer.is_spegel, answer=answer.text, is_silent=answer.is_silent
        )

    return tuple(replace(file, mirrors=tuple(map(met, file.mirrors))) for file in found)


def _folders(roots: Sequence[Path]) -> list[str]:
    names: dict[str, None] = {}
    failures = []
    for root in roots:
        try:
            names |= dict.fromkeys(sorted(path.name for path in root.iterdir() if path.is_dir()))
        except OSError as error:
            failures.append(f"{root} cannot be read: {error.strerror}")
    if len(failures) == len(roots):
        raise ConfigError("; ".join(failures) or "there is no folder of hosts.toml files")
    return list(names)


def set_aside(root: Path) -> tuple[str, ...]:
    """Return the registries whose settings are only in the backup of `configuration`."""
    backup = root / BACKUP
    try:
        folders = sorted(path for path in backup.iterdir() if path.is_dir())
    except OSError:
        return ()
    return tuple(
        registry_of(folder.name) for folder in folders if _says_more(folder, root / folder.name)
    )


def _says_more(original: Path, now: Path) -> bool:
    """Return True if the registry's original folder had settings that its present folder lacks."""
    files = {path.name for path in original.iterdir()}
    before = _kept(original / HOSTS) if HOSTS in files else {}
    if not before and not any(name.endswith((".crt", ".cert")) for name in files):
        return False
    after = _kept(now / HOSTS)
    is_listed = all((now / name).exists() for name in files)
    return not (is_listed and before.items() <= after.items())


def _kept(path: Path) -> dict[str, str]:
    """Return the parts of a hosts.toml that `configuration` keeps: hosts, and keys with values."""
    try:
        document = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    hosts = document.pop("host", {})
    names = hosts if isinstance(hosts, dict) else {}
    return {key: repr(value) for key, value in document.items()} | dict.fromkeys(
        map(str, names), "host"
    )


def _find(roots: Sequence[Path], registry: str) -> HostsFile:
    """Return the file that containerd would find for a registry.

    It is in the first root with a folder for the registry, or with a default folder.
    """
    names = (*registry_folders(registry), DEFAULT)
    for root in roots:
        for name in names:
            if (root / name).is_dir():
                path = root / name / HOSTS
                return _read(registry, path) if _exists(path) else HostsFile(registry=registry)
    return HostsFile(registry=registry)


def _exists(path: Path) -> bool:
    """Return True if the file is there, or hidden from this user."""
    try:
        return path.exists()
    except PermissionError:
        return True


def _read(registry: str, path: Path) -> HostsFile:
    try:
        document = tomllib.loads(read_text(path))
    except OSError as error:
        denied = isinstance(error, PermissionError)
        problem = error.strerror or str(error)
        return HostsFile(registry=registry, path=path, problem=problem, is_denied=denied)
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or an endless number
        return HostsFile(registry=registry, path=path, problem=" ".join(str(error).split())[:200])
    hosts, server = document.get("host"), document.get("server")
    mirrors = [_mirror(url, host) for url, host in hosts.items()] if isinstance(hosts, dict) else []
    return HostsFile(
        registry=registry,
        path=path,
        mirrors=tuple(mirrors),
        server=server if isinstance(server, str) else None,
        has_keys=bool(document.keys() - {"host", "server"}),
    )


def _mirror(url: str, host: Any) -> MirrorHost:
    given = host.get("capabilities") if isinstance(host, dict) else None
    names = given if isinstance(given, list) and given else ["pull", "resolve", "push"]
    header = host.get("header") if isinstance(host, dict) else None
    node = header.get(NODE_HEADER) if isinstance(header, dict) else None
    token = header.get(RUNTIME_HEADER) if isinstance(header, dict) else None
    return MirrorHost(
        url if "://" in url else f"https://{url}",
        frozenset(each for each in names if isinstance(each, str)),
        node if isinstance(node, str) else None,
        fingerprint(token) if isinstance(token, str) else None,
    )
