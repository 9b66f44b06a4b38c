"""buildkitd's buildkitd.toml: mirrors are added to the tables of registries. Pure.

The file is the user's: order, comments and spaces of all else stay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tomlkit

from spegel_py.host.registries import Registry
from spegel_py.host.toml_text import parse_toml


def mirror(target: str) -> str:
    """Return a mirror as buildkitd names it: without a scheme.

    It has no path, since buildkitd names the registry in the query, as containerd does.
    """
    return target.partition("://")[2]


def add(text: str, registries: Sequence[Registry], targets: Sequence[str]) -> str:
    """Return the file with the mirrors of each registry before those that it has.

    A mirror without TLS gets a table of its own that says so. Raises ValueError if the file is not
    TOML, or has something else than tables for registries.
    """
    document = parse_toml(text)
    wanted = [mirror(target) for target in targets]
    for registry in registries:
        table = _table(document, registry.host)
        others = [one for one in _mirrors(table) if one not in wanted]
        table["mirrors"] = [*wanted, *others]
    for target in targets:
        if target.startswith("http:"):
            _table(document, mirror(target))["http"] = True
    return tomlkit.dumps(document)


def remove(text: str, mirrors: Collection[str]) -> str:
    """Return the file without these mirrors, and without tables that have nothing else.

    Raises ValueError as `add` does.
    """
    document = parse_toml(text)
    registries = document.get("registry")
    if not isinstance(registries, dict):
        return text
    for name, table in list(registries.items()):
        if not isinstance(table, dict):
            continue
        if name in mirrors and dict(table) == {"http": True}:
            del registries[name]
        elif others := [one for one in _mirrors(table) if one not in mirrors]:
            if others != _mirrors(table):
                table["mirrors"] = others
        elif "mirrors" in table and _mirrors(table):
            del table["mirrors"]
            if not table:
                del registries[name]
    if not registries:
        del document["registry"]
    return tomlkit.dumps(document)


def _table(document: tomlkit.TOMLDocument, host: str) -> Any:
    """Return the table of a registry, which is added if there is none."""
    registries = document.setdefault("registry", tomlkit.table(is_super_table=True))
    if not isinstance(registries, dict):
        raise ValueError("registry is no table")
    table = registries.setdefault(host, tomlkit.table())
    if not isinstance(table, dict):
        raise ValueError(f'registry."{host}" is no table')
    return table


def _mirrors(table: Mapping[str, Any]) -> list[str]:
    found = table.get("mirrors", [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("mirrors is no list of hosts")
    return [str(one) for one in found]
