"""A node's own addresses: what it listens on, and what it tells others."""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Callable

import psutil
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError

LOOK_AGAIN = 5.0
"""Seconds after which the interfaces are looked at anew: it takes about a millisecond."""


class OwnAddresses:
    """What a node tells others of its addresses, as its interfaces are now: a node may start before its network."""

    def __init__(
        self, host: str, port: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = host
        self._port = port
        self._clock = clock
        self._seen: list[Multiaddr] = []
        self._until = -math.inf

    def __repr__(self) -> str:
        return f"<OwnAddresses {[str(each) for each in self._seen]}>"

    def __call__(self) -> list[Multiaddr]:
        """Return the addresses to announce."""
        if (now := self._clock()) >= self._until:
            self._seen, self._until = announced_addresses(self._host, self._port), now + LOOK_AGAIN
        return list(self._seen)


def announced_addresses(host: str, port: int) -> list[Multiaddr]:
    """Return the addresses to announce when listening on `host` ("" or a wildcard: all) and `port`.

    On a wildcard these are the addresses of the interfaces that are up, loopback and link-local ones only if there is
    nothing else.
    """
    if host and not ipaddress.ip_address(host).is_unspecified:
        return [multiaddr(host, port)]
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    if host and ipaddress.ip_address(host).version == 4:
        found = [address for address in found if address.version == 4]
    public = [address for address in found if not address.is_loopback and not address.is_link_local]
    return [
        multiaddr(str(address), port) for address in public or [a for a in found if a.is_loopback]
    ]


def listen_addresses(host: str, port: int) -> list[Multiaddr]:
    """Return the addresses to listen on: the one given, or for an empty host the wildcards of IPv4 and, where there is
    IPv6, of IPv6."""
    hosts = [host] if host else (["0.0.0.0", "::"] if has_ipv6() else ["0.0.0.0"])  # noqa: S104 - asked for
    return [multiaddr(each, port) for each in hosts]


def has_ipv6() -> bool:
    """Return True if this machine's kernel has IPv6: `ipv6.disable=1` leaves no sockets of it."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def multiaddr(host: str, port: int) -> Multiaddr:
    """Return `/ip4|ip6/<host>/tcp/<port>`."""
    return Multiaddr(f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}")


def endpoint(address: Multiaddr) -> tuple[str, int] | None:
    """Return the IP address and the port of a multiaddr of TCP, None for others."""
    parts = str(address).split("/")
    is_tcp = len(parts) > 4 and parts[1] in ("ip4", "ip6") and parts[3] == "tcp"
    return (parts[2], int(parts[4])) if is_tcp else None


def check_port_free(host: str, port: int, *, flag: str) -> None:
    """Raise ConfigError if the port cannot be bound; a plain bind, since SO_REUSEPORT would hide another node."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "0.0.0.0", port))  # noqa: S104 - asked for
        except OSError as error:
            raise ConfigError(
                f"{flag}: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
