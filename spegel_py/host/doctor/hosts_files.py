"""The hosts.toml that containerd finds for a registry, and what answers at the hosts in it."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spegel_py.errors import ConfigError
from spegel_py.host.doctor.facts import DEFAULT, HostsFile, Mirror
from spegel_py.host.host_files import read_text
from spegel_py.host.http_probe import MirrorAnswer, ask_mirror
from spegel_py.host.registries import registry_of

MAX_FILES = 64
"""Folders that are looked at where all registries are mirrored, and hosts that are asked."""

HOSTS = "hosts.toml"

BACKUP = "_backup"
"""Where `spegel-py configuration` keeps what was there before."""


def read(roots: Sequence[Path], registries: Sequence[str]) -> tuple[HostsFile, ...]:
    """Return what containerd finds in `roots` for these registries. Raises ConfigError if no root can be listed.

    For no registries, which means all, it is the default and every registry beside it that has a folder of its own.
    """
    names = _folders(roots)
    if registries:
        return tuple(
            _find(roots, urlsplit(each).netloc if "://" in each else each) for each in registries
        )
    others = [name for name in names if name not in (DEFAULT, BACKUP)][:MAX_FILES]
    return (
        _find(roots, DEFAULT),
        *(replace(_find(roots, registry_of(name)), is_asked=False) for name in others),
    )


async def asked(files: Iterable[HostsFile]) -> tuple[HostsFile, ...]:
    """Return the files with what answers at their hosts."""
    found = tuple(files)
    urls = sorted({mirror.url for file in found for mirror in file.mirrors})[:MAX_FILES]
    answers = dict(zip(urls, await asyncio.gather(*map(ask_mirror, urls)), strict=True))

    def met(mirror: Mirror) -> Mirror:
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
    """Return the registries whose own settings wait in the backup, since `configuration` did not keep them."""
    backup = root / BACKUP
    try:
        folders = sorted(path for path in backup.iterdir() if path.is_dir())
    except OSError:
        return ()
    return tuple(
        registry_of(folder.name) for folder in folders if _says_more(folder, root / folder.name)
    )


def _says_more(original: Path, now: Path) -> bool:
    """Return True if a registry's folder had settings for containerd that its present folder does not have."""
    files = {path.name for path in original.iterdir()}
    before = _kept(original / HOSTS) if HOSTS in files else {}
    if not before and not any(name.endswith((".crt", ".cert")) for name in files):
        return False
    after = _kept(now / HOSTS)
    is_listed = all((now / name).exists() for name in files)
    return not (is_listed and before.items() <= after.items())


def _kept(path: Path) -> dict[str, str]:
    """Return the parts of a hosts.toml that `configuration` takes over: names of hosts, and keys with values."""
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
    """Look where containerd looks: the first folder for the registry in the first root that has one, or its default."""
    host, colon, port = registry.rpartition(":")
    names = [*([f"{host}_{port}_"] if colon else []), registry, DEFAULT]
    for root in roots:
        for name in names:
            if (root / name).is_dir():
                path = root / name / HOSTS
                return _read(registry, path) if path.exists() else HostsFile(registry=registry)
    return HostsFile(registry=registry)


def _read(registry: str, path: Path) -> HostsFile:
    try:
        document = tomllib.loads(read_text(path))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: no TOML, no UTF-8, a number without end
        return HostsFile(registry=registry, path=path, problem=" ".join(str(error).split())[:200])
    hosts = document.get("host")
    mirrors = [_mirror(url, host) for url, host in hosts.items()] if isinstance(hosts, dict) else []
    return HostsFile(registry=registry, path=path, mirrors=tuple(mirrors))


def _mirror(url: str, host: Any) -> Mirror:
    given = host.get("capabilities") if isinstance(host, dict) else None
    names = given if isinstance(given, list) and given else ["pull", "resolve", "push"]
    return Mirror(
        url if "://" in url else f"https://{url}",
        frozenset(each for each in names if isinstance(each, str)),
    )
