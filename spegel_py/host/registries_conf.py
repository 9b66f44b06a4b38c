"""The drop-in of registries.conf that makes podman, CRI-O, buildah and skopeo ask mirrors first.

The file is this program's alone, in the folder registries.conf.d. Settings of a registry there
replace those of an earlier file, so a registry that another file has is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence

from spegel_py.host.registries import Registry

HEAD = "# Written by spegel-py configuration; spegel-py cleanup removes it.\n"


def render(
    registries: Sequence[Registry], targets: Sequence[str], *, can_resolve: bool = True
) -> str:
    """Return the file: for each registry a table with its mirrors, in the order of `targets`.

    Without `can_resolve` mirrors are asked for digests only.
    """
    blocks = [HEAD.rstrip()]
    for registry in registries:
        insecure = "\ninsecure = true" if (registry.server or "").startswith("http:") else ""
        blocks.append(f'[[registry]]\nlocation = "{registry.host}"{insecure}')
        for target in targets:
            scheme, _, host = target.partition("://")
            lines = ["[[registry.mirror]]", f'location = "{host}/{registry.host}"']
            lines += ["insecure = true"] if scheme == "http" else []
            lines += [] if can_resolve else ['pull-from-mirror = "digest-only"']
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def claimed(files: Mapping[str, str], registries: Sequence[Registry]) -> Iterator[tuple[str, str]]:
    """Yield the registries that other files have a table for, each with the file's name.

    Raises ValueError for a file that is not TOML.
    """
    hosts = {registry.host for registry in registries}
    for name, text in files.items():
        try:
            tables = tomllib.loads(text).get("registry", [])
        except ValueError as error:
            raise ValueError(f"{name} is not TOML: {error}") from error
        for table in tables if isinstance(tables, list) else ():
            if not isinstance(table, dict):
                continue
            prefix = table.get("prefix") or table.get("location")
            if isinstance(prefix, str) and prefix in hosts:
                yield prefix, name
