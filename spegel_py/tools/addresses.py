"""`host:port` and http URLs: written and read in one way everywhere.

IPv6 hosts stand in brackets.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from spegel_py.errors import ConfigError
from spegel_py.tools.listeners import explain_listening

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class MirrorAddress:
    """A mirror, and the headers by which it knows its clients.

    Args:
        url: `scheme://host:port`.
        authorization: the value of the Authorization header; None to send none.
        runtime_token: the token of the mirror's own runtime; empty to send none.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)
    runtime_token: str = field(default="", repr=False)


def registry_folders(registry: str) -> tuple[str, ...]:
    """Return the names that the folder of a registry (`host[:port]`) may have in containerd's
    `config_path`, in the order in which containerd looks for them.
    """
    host, colon, port = registry.rpartition(":")
    return (f"{host}_{port}_", registry) if colon and not port.endswith("]") else (registry,)


def join_host_port(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `[ipv6]:port` or `:port`; the host without brackets.

    Raises ValueError for any other text, and for a port above 65535. The host is not checked.
    """
    host, colon, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= MAX_PORT
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not is_number or (":" in bare) != (bare != host):
        raise ValueError(f"{text[:160]!r} is not host:port, [ipv6]:port or :port")
    return bare, int(port)


@lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    """Return True for an IP address that only this machine reaches.

    Results are remembered, since the addresses of all peers are judged whenever one comes.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_http_url(text: str) -> bool:
    """Return True for an http or https URL with a host; its port, if any, must be valid."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def local_url(address: str) -> str:
    """Return the URL at which this machine reaches a server listening on `address`."""
    host, _, port = address.rpartition(":")
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared
    return f"http://{here.get(host, host)}:{port}"


def check_port_free(host: str, port: int, *, flag: str) -> None:
    """Raise ConfigError if the port cannot be bound.

    A plain bind is used, since SO_REUSEPORT would hide another node on the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "0.0.0.0", port))  # noqa: S104 - asked for
        except OSError as error:
            raise ConfigError(
                f"{flag}: cannot listen on {host}:{port}: {explain_listening(error, port)}"
            ) from error
