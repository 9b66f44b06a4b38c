"""The hosts.toml that containerd finds for a registry, and what answers at the hosts in it."""

from __future__ import annotations

import asyncio
import http.client
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spegel_py.errors import ConfigError
from spegel_py.host.doctor.aside import explain, get
from spegel_py.host.doctor.facts import DEFAULT, HostsFile, Mirror

MAX_FILES = 64
"""Folders that are looked at where all registries are mirrored, and hosts that are asked."""

BACKUP = "_backup"
"""Where `spegel-py configuration` keeps what was there before."""

PATIENCE = 2.0
"""Seconds that a host has for its answer: a mirror on the same machine needs milliseconds."""


def read(roots: Sequence[Path], registries: Sequence[str]) -> tuple[HostsFile, ...]:
    """Return what containerd finds in `roots` for these registries. Raises ConfigError if no root can be listed.

    For no registries, which means all, it is the default and every registry beside it that has a folder of its own.
    """
    names = _folders(roots)
    if registries:
        return tuple(_find(roots, urlsplit(each).netloc if "://" in each else each) for each in registries)
    others = [name for name in names if name not in (DEFAULT, BACKUP)][:MAX_FILES]
    return (_find(roots, DEFAULT), *(replace(_find(roots, _registry(name)), is_asked=False) for name in others))


async def asked(files: Iterable[HostsFile]) -> tuple[HostsFile, ...]:
    """Return the files with what answers at their hosts."""
    found = tuple(files)
    urls = sorted({mirror.url for file in found for mirror in file.mirrors})[:MAX_FILES]
    answers = dict(zip(urls, await asyncio.gather(*map(_probe, urls)), strict=True))

    def met(mirror: Mirror) -> Mirror:
        is_spegel, answer = answers.get(mirror.url, (False, "not asked"))
        return replace(mirror, is_spegel=is_spegel, answer=answer)

    return tuple(replace(file, mirrors=tuple(map(met, file.mirrors))) for file in found)


async def _probe(url: str) -> tuple[bool, str]:
    """Say whether spegel-py answers under `url`, and in a few words what does."""
    try:
        answer = await get(f"{url.rstrip('/').removesuffix('/v2')}/v2/", timeout=PATIENCE)
    except (OSError, http.client.HTTPException) as error:
        return False, explain(error)
    except ValueError as error:  # no URL
        return False, str(error)
    server = answer.headers.get("Server", "")
    return server.startswith("spegel-py"), f"{answer.status} from {server or 'a server without a name'}"


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


def _find(roots: Sequence[Path], registry: str) -> HostsFile:
    """Look where containerd looks: the first folder for the registry in the first root that has one, or its default."""
    host, colon, port = registry.rpartition(":")
    names = [*([f"{host}_{port}_"] if colon else []), registry, DEFAULT]
    for root in roots:
        for name in names:
            if (root / name).is_dir():
                path = root / name / "hosts.toml"
                return _read(registry, path) if path.exists() else HostsFile(registry=registry)
    return HostsFile(registry=registry)


def _registry(folder: str) -> str:
    """Return the registry that a folder is for: `host_port_` is `host:port`."""
    host, _, port = folder.removesuffix("_").rpartition("_")
    return f"{host}:{port}" if folder.endswith("_") and host and port.isdigit() else folder


def _read(registry: str, path: Path) -> HostsFile:
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, no UTF-8, a number without end
        return HostsFile(registry=registry, path=path, problem=" ".join(str(error).split())[:200])
    hosts = document.get("host")
    mirrors = [_mirror(url, host) for url, host in hosts.items()] if isinstance(hosts, dict) else []
    return HostsFile(registry=registry, path=path, mirrors=tuple(mirrors))


def _mirror(url: str, host: Any) -> Mirror:
    given = host.get("capabilities") if isinstance(host, dict) else None
    names = given if isinstance(given, list) and given else ["pull", "resolve", "push"]
    return Mirror(url if "://" in url else f"https://{url}", frozenset(each for each in names if isinstance(each, str)))
