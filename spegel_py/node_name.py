"""The node's name and its runtime token, by which it recognises its own container runtime.

`configuration` writes the name into hosts.toml, as a header that the runtime sends to every mirror.
A registry that is reached through a second target, a node port or a load balancer so recognises
another node's runtime. A name is no secret; the token is (`tools.runtime_token`).
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

from spegel_py import values
from spegel_py.settings import Setting

MACHINE_ID = Path("/etc/machine-id")
"""File with a text that differs between machines, even with the same host name.

Containers have none.
"""

_VALID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def _name(given: Any) -> str:
    """Return a name that is valid in an HTTP header; empty for the default."""
    written = values.text(given)
    if written and not _VALID.fullmatch(written):
        raise ValueError(
            f"{written!r} should be a node's name: letters, digits, dots, dashes and underscores"
        )
    return written


NODE_NAME = Setting(
    "node_name",
    _name,
    "",
    (
        "this node's name, the same for `registry` and `configuration`, and different on "
        "each node; the default is made of the host's name and its machine-id"
    ),
)


RUNTIME_TOKEN = Setting(
    "runtime_token",
    values.path,
    None,
    (
        "file with the tokens of this node's container runtime, the same for `registry` and "
        "`configuration`, which makes a new token with each run and writes it into hosts.toml; "
        "other clients of the registry then get 403, peers aside; none: the runtime is known by "
        "the node's name"
    ),
)


def node_name(given: str) -> str:
    """Return the given name, or one made of this host's name and its machine-id."""
    if given:
        return given
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:240].strip(".-") or "node"
    try:
        machine = MACHINE_ID.read_text().strip()[:8]
    except (OSError, UnicodeDecodeError):
        machine = ""
    return f"{host}-{machine}" if machine.isalnum() and machine.isascii() else host
