"""The text of a hosts.toml that makes containerd ask mirrors first.

It is the file that Spegel writes, with more headers in each mirror's table: this node's name, and
in the first one the runtime token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from spegel_py.host.toml_text import parse_toml
from spegel_py.oci.distribution import NODE_HEADER, RUNTIME_HEADER
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
"""Time that containerd has to connect to a mirror, from version 2.1 on.

A mirror runs on the same node: a connection takes no time, or fails.
"""


def blocks(
    targets: Sequence[str],
    *,
    can_resolve: bool,
    node: str,
    credentials: Credentials | None = None,
    token: str = "",
) -> str:
    """Return the `[host]` tables of mirrors, each with this node's name as a header.

    The first mirror is this node, and the only one that gets the runtime token. Without
    `can_resolve` containerd asks mirrors for digests only, and upstream for tags.
    """
    capabilities = "['pull', 'resolve']" if can_resolve else "['pull']"
    headers = f"{NODE_HEADER} = '{node}'"
    if credentials:
        headers = f"Authorization = '{credentials.header}'\n{headers}"
    own = f"\n{RUNTIME_HEADER} = '{token}'" if token else ""
    return "\n\n".join(
        f"[host.'{target}']\ncapabilities = {capabilities}\ndial_timeout = '{DIAL_TIMEOUT}'\n"
        f"[host.'{target}'.header]\n{headers}{'' if number else own}"
        for number, target in enumerate(targets)
    )


def render(server: str | None, mirrors: str) -> str:
    """Return a whole file: mirrors first, then the server.

    Without a server containerd continues at the registry that it was asked for.
    """
    return f"server = '{server}'\n\n{mirrors}\n" if server else f"{mirrors}\n"


def is_made(text: str) -> bool:
    """Return True if `render` or Spegel can have written the file: all its hosts are mirrors.

    An empty file counts too: nothing is lost with it.
    """
    try:
        document = parse_toml(text).unwrap()
    except ValueError:
        return False
    hosts = document.get("host", {})
    return not document.keys() - {"server", "host"} and all(
        isinstance(host, dict) and host.get("dial_timeout") == DIAL_TIMEOUT
        for host in (hosts.values() if isinstance(hosts, dict) else (None,))
    )


def server_of(text: str) -> str | None:
    """Return the server of a file that `render` or Spegel has written; None if it has none."""
    found = re.search(r"(?m)^server = '([^']*)'$", text)
    return found[1] if found else None


def prepend(existing: str, server: str | None, mirrors: str, targets: Collection[str]) -> str:
    """Return the existing file with the mirrors before its hosts.

    Order and comments of the hosts stay. The file's own server stays too, because its certificates
    and headers belong to that server. Hosts that equal a target are removed: a table may exist only
    once. Raises ValueError with the line if the file is not TOML.
    """
    document = parse_toml(existing)
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
    """Yield the paths of all certificates and keys that a file names.

    Raises ValueError as `prepend` does.
    """
    document = parse_toml(existing).unwrap()
    hosts = document.get("host", {})
    for table in (document, *(hosts.values() if isinstance(hosts, dict) else ())):
        if isinstance(table, dict):
            yield from _texts(table.get("ca"))
            yield from _texts(table.get("client"))


def from_files(names: Collection[str]) -> str:
    """Return the hosts.toml that is equivalent to a folder of certificates with Docker's names.

    containerd reads such a folder if it has no hosts.toml. A `.cert` without a `.key` contains its
    key.
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
    """Return the keys of the whole file, and its tables from the first table's comments on."""
    start = _first_table(text)
    lines = text[:start].splitlines(keepends=True)
    comments = len(list(takewhile(lambda before: before.lstrip().startswith("#"), reversed(lines))))
    if start == len(text) or not comments:
        return text[:start], text[start:]
    return "".join(lines[:-comments]), "".join(lines[-comments:]) + text[start:]


def _first_table(text: str) -> int:
    """Return the offset of the first table's line in valid TOML.

    That is the first line that begins with a bracket outside of strings and of other brackets.
    Without a table it is the end of the text.
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


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
