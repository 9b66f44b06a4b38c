"""Multiaddrs: the ones this node listens on and announces, and those of peers and registries."""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.base import Peer

LOOK_AGAIN = 5.0
"""Seconds after which the interfaces are read again, which takes about a millisecond."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer id with the addresses at which the peer can be dialled."""

    id: ID
    addresses: tuple[Multiaddr, ...]


class OwnAddresses:
    """This node's announced addresses, read anew: the node may start before its network."""

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

    On a wildcard these are the addresses of the interfaces that are up. Loopback addresses are
    announced only if there is no other.
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
    """Return the addresses to listen on: the given one, or the wildcards for an empty host.

    The wildcard of IPv6 is left out where the kernel has no IPv6.
    """
    if host:
        return [multiaddr(host, port)]
    wildcards = ["0.0.0.0", "::"] if has_ipv6() else ["0.0.0.0"]  # noqa: S104 - asked for
    return [multiaddr(each, port) for each in wildcards]


def has_ipv6() -> bool:
    """Return True if this machine's kernel has IPv6: `ipv6.disable=1` removes its sockets."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def multiaddr(host: str, port: int) -> Multiaddr:
    """Return `/ip4|ip6/<host>/tcp/<port>`."""
    return Multiaddr(f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}")


def endpoint(address: Multiaddr) -> tuple[str, int] | None:
    """Return the IP address and the port of a TCP multiaddr, None for any other."""
    parts = str(address).split("/")
    is_tcp = len(parts) > 4 and parts[1] in ("ip4", "ip6") and parts[3] == "tcp"
    return (parts[2], int(parts[4])) if is_tcp else None


def own_addresses(host: BasicHost) -> tuple[Multiaddr, ...]:
    """Return the addresses this host announces, without the `/p2p` part."""
    return tuple(strip_peer(address) for address in host.get_addrs())


def strip_peer(address: Multiaddr) -> Multiaddr:
    """Return the address without a `/p2p/<id>` part at its end."""
    return Multiaddr(str(address).partition("/p2p/")[0])


def registry_address(peer: Peer) -> Multiaddr:
    """Return a registry's address in the form that provider records carry."""
    return Multiaddr(
        f"/ip{ipaddress.ip_address(peer.host).version}/{peer.host}/tcp/{peer.port}/http"
    )


def provider_addresses(host: BasicHost, registry_host: str, registry_port: int) -> list[Multiaddr]:
    """Return this host's addresses with those of its registry, for provider records.

    An empty `registry_host` stands for all addresses of the host.
    """
    own = own_addresses(host)
    hosts = [registry_host] if registry_host else [str(each).split("/")[2] for each in own]
    return [*own, *(registry_address(Peer("", each, registry_port)) for each in hosts)]


def registry_port(addresses: Iterable[Multiaddr], *, default: int) -> int:
    """Return the port of a provider's registry, from its `/http` address; else `default`.

    The host in that address is not trusted: see `location`.
    """
    found = (endpoint(address) for address in addresses if is_registry(address))
    return next((at[1] for at in found if at is not None), default)


def is_registry(address: Multiaddr) -> bool:
    """Return True for the address of a registry, False for a libp2p address.

    No server can listen on port 0, so an address with that port is not a registry.
    """
    at = endpoint(address)
    return at is not None and at[1] != 0 and str(address).endswith("/http")
