"""A node's own addresses: what it listens on, and what it tells others."""

from __future__ import annotations

import ipaddress
import socket

import psutil
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError


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
    return [multiaddr(str(address), port) for address in public or [a for a in found if a.is_loopback]]


def listen_addresses(host: str, port: int) -> list[Multiaddr]:
    """Return the addresses to listen on: the one given, or both wildcards for an empty host."""
    hosts = [host] if host else (["0.0.0.0", "::"] if socket.has_ipv6 else ["0.0.0.0"])  # noqa: S104 - asked for
    return [multiaddr(each, port) for each in hosts]


def multiaddr(host: str, port: int) -> Multiaddr:
    """Return `/ip4|ip6/<host>/tcp/<port>`."""
    return Multiaddr(f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}")


def check_port_free(host: str, port: int, *, flag: str) -> None:
    """Raise ConfigError if the port cannot be bound; a plain bind, since SO_REUSEPORT would hide another node."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "0.0.0.0", port))  # noqa: S104 - asked for
        except OSError as error:
            raise ConfigError(f"{flag}: cannot listen on {host}:{port}: {error.strerror}") from error
