"""The hosts.toml that sends containerd to mirrors first, alone or before what a file already says.

It is the file that Spegel writes, and a header in each mirror's table that names this node.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from spegel_py.oci.distribution import NODE_HEADER
from spegel_py.tools.basic_auth import Credentials

_TOKEN = re.compile(
    r"""
    "{3}(?:\\.|[^\\])*?"{3,5} | '{3}.*?'{3,5}      # strings of several lines
    | "(?:\\.|[^"\\\n])*" | '[^'\n]*' | \#[^\n]*  # strings of one, and comments
    | [\[\]{}\n]
    """,
    re.DOTALL | re.VERBOSE,
)

DIAL_TIMEOUT = "200ms"
"""A mirror runs on this node: a connection takes no time, or will not come about. containerd heeds it from 2.1 on."""


def blocks(
    targets: Sequence[str],
    *,
    can_resolve: bool,
    node: str,
    credentials: Credentials | None = None,
) -> str:
    """Return the `[host]` tables of mirrors, in each of them the name of this node as a header.

    Without `can_resolve` containerd asks mirrors for digests only, and upstream for tags.
    """
    capabilities = "['pull', 'resolve']" if can_resolve else "['pull']"
    headers = f"{NODE_HEADER} = '{node}'"
    if credentials:
        headers = f"Authorization = '{credentials.header}'\n{headers}"
    return "\n\n".join(
        f"[host.'{target}']\ncapabilities = {capabilities}\ndial_timeout = '{DIAL_TIMEOUT}'\n"
        f"[host.'{target}'.header]\n{headers}"
        for target in targets
    )


def render(server: str | None, mirrors: str) -> str:
    """Return a whole file: mirrors first, then the server; None for the registry that containerd was asked for."""
    return f"server = '{server}'\n\n{mirrors}" if server else mirrors


def prepend(existing: str, server: str | None, mirrors: str, targets: Collection[str]) -> str:
    """Return the existing file with the mirrors before its hosts, in their order and with their comments.

    Its own server stays, since its certificates and headers are that server's. Hosts that are one of the targets go: a
    table may be there once only. Raises ValueError with the line where it is not TOML.
    """
    document = _parsed(existing)
    hosts = document.get("host", {})
    for target in targets:
        if isinstance(hosts, dict) and target in hosts:
            del hosts[target]
    head, tail = _split(document.as_string())
    if server and "server" not in document:
        head = f"server = '{server}'\n{head}"
    merged = "\n\n".join(part for part in (head.strip(), mirrors, tail.strip()) if part) + "\n"
    try:
        tomlkit.parse(merged)
    except TOMLKitError as error:
        raise ValueError(
            "its hosts are not tables: write each as [host.'URL'] and what belongs to it below"
        ) from error
    return merged


def certificates(existing: str) -> Iterator[str]:
    """Yield the paths of all certificates and keys that a file names. Raises ValueError as `prepend` does."""
    document = _parsed(existing).unwrap()
    hosts = document.get("host", {})
    for table in (document, *(hosts.values() if isinstance(hosts, dict) else ())):
        if isinstance(table, dict):
            yield from _texts(table.get("ca"))
            yield from _texts(table.get("client"))


def from_files(names: Collection[str]) -> str:
    """Return what a folder without hosts.toml says to containerd by its certificates' names, which are Docker's.

    A `.cert` without a `.key` beside it holds its key itself.
    """
    lines = []
    if authorities := sorted(name for name in names if name.endswith(".crt")):
        lines.append(f"ca = {tomlkit.item(authorities).as_string()}")
    clients = sorted(name for name in names if name.endswith(".cert"))
    keys = {name: f"{name.removesuffix('.cert')}.key" for name in clients}
    if pairs := [[name, keys[name] if keys[name] in names else name] for name in clients]:
        lines.append(f"client = {tomlkit.item(pairs).as_string()}")
    return "\n".join(lines)


def _split(text: str) -> tuple[str, str]:
    """Return what belongs to the whole file, and its tables from the first one's comments on."""
    start = _first_table(text)
    lines = text[:start].splitlines(keepends=True)
    comments = len(list(takewhile(lambda before: before.lstrip().startswith("#"), reversed(lines))))
    if start == len(text) or not comments:
        return text[:start], text[start:]
    return "".join(lines[:-comments]), "".join(lines[-comments:]) + text[start:]


def _first_table(text: str) -> int:
    """Return where the line of the first table's head begins in a file that is TOML; its end if there is none.

    That is the first line that begins with a bracket, and neither within a string nor within another bracket.
    """
    depth = line = 0
    for found in _TOKEN.finditer(text):
        match found[0][0]:
            case "\n":
                line = found.end()
            case "[" if not depth and not text[line : found.start()].strip():
                return line
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case _ if "\n" in found[0]:
                line = text.rindex("\n", 0, found.end()) + 1
    return len(text)


def _parsed(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except (TOMLKitError, ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"line {getattr(error, 'line', 1)}: it is not TOML: {cause}") from error


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
