"""The IP address at which each connected peer can be asked: never a mere claim of the peer.

A peer announces where its registry is, and any process that reaches the router's port can be a
peer. If that were trusted, a peer could make this node send requests to any address of the network
(server-side request forgery). So an address counts only if the peer's identity answered there:

1. The address from which the peer is connected, as the Noise handshake proves.
2. An address that the peer claims and that this node has dialled: the handshake there gave the same
   identity.

Case 2 is for nodes behind a router that rewrites source addresses (SNAT): they are connected from
the router's address, where no registry answers for them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.libp2p.multiaddrs import Contact, endpoint, multiaddr

log = structlog.get_logger(__name__)

IDENTIFY_TIMEOUT = 5.0
"""Seconds for a new peer's identify message, which lists its addresses and takes milliseconds."""
IDENTIFY_POLL = 0.1
"""Seconds between two looks for that message, since py-libp2p reports its arrival to no one."""
MAX_DIALS = 8
"""Claimed addresses dialled for one peer: a machine has some for its containers besides its own."""

Prove = Callable[[Multiaddr, ID], Awaitable[None]]
"""Dials an address and returns if this peer's identity answers there. Raises PeerUnreachable."""


class Locations:
    """The proven address of each connected peer.

    Args:
        connected_from: returns the IP address from which a peer is connected, None if it is not.
        contact: returns a peer with the multiaddrs of its identify message.
        prove: dials one address; it bounds the dials at a time.
        found: is called with a peer and its proven address.
    """

    def __init__(
        self,
        *,
        connected_from: Callable[[ID], str | None],
        contact: Callable[[ID], Contact],
        prove: Prove,
        found: Callable[[ID, str], None],
    ) -> None:
        self._connected_from = connected_from
        self._contact = contact
        self._prove = prove
        self._found = found
        self._proven: dict[ID, str] = {}

    def __repr__(self) -> str:
        return f"<Locations {len(self._proven)} proven by a dial>"

    def of(self, peer: ID) -> str | None:
        """Return the IP address at which a peer can be asked, None if it is not connected."""
        return self._proven.get(peer) or self._connected_from(peer)

    def forget(self, peer: ID) -> None:
        """Forget the address of a disconnected peer: it may come back with another."""
        self._proven.pop(peer, None)

    async def find(self, peer: ID) -> None:
        """Dial a new peer's own addresses if it is connected from a different one."""
        addresses, seen = (await self._identified(peer)).addresses, self._connected_from(peer)
        claims = {at[0]: address for address in addresses if (at := endpoint(address))}
        if seen is not None and seen not in claims:
            await self._try(peer, [claims[host] for host in claims if not is_unusable(host, seen)])

    async def claim(self, peer: ID, host: str) -> None:
        """Dial an IP address that a peer gives as its registry's, unless it is proven already."""
        if host not in (self._connected_from(peer), self._proven.get(peer)):
            addresses = (await self._identified(peer)).addresses
            ports = dict.fromkeys(at[1] for address in addresses if (at := endpoint(address)))
            await self._try(peer, [multiaddr(host, port) for port in ports])

    async def _identified(self, peer: ID) -> Contact:
        with trio.move_on_after(IDENTIFY_TIMEOUT):
            while not self._contact(peer).addresses:  # noqa: ASYNC110 - its arrival is not reported
                await trio.sleep(IDENTIFY_POLL)
        return self._contact(peer)

    async def _try(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Dial the addresses in turn, and keep the first at which the peer answers."""
        for address in addresses[:MAX_DIALS]:
            try:
                await self._prove(address, peer)
            except PeerUnreachable as error:
                log.debug(
                    "address of a peer not proven",
                    peer=str(peer),
                    address=str(address),
                    error=str(error),
                )
                continue
            host, _ = endpoint(address) or ("", 0)
            if self._connected_from(peer) is not None:
                self._proven[peer] = host
                log.info("peer found at its own address", peer=str(peer), address=host)
                self._found(peer, host)
            return


def is_unusable(host: str, seen: str) -> bool:
    """Return True if a host named by a peer connected from `seen` cannot be its address.

    That is an empty host, a wildcard, a multicast or link-local address, or the loopback address of
    another machine.
    """
    if not host:
        return True
    address = ipaddress.ip_address(host)
    is_here = ipaddress.ip_address(seen).is_loopback
    return (
        address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or (address.is_loopback and not is_here)
    )


def drop_unusable(contact: Contact, seen: str) -> Contact:
    """Return a contact named by a peer connected from `seen`, without its unusable addresses."""
    usable = [
        each
        for each in contact.addresses
        if (at := endpoint(each)) and not is_unusable(at[0], seen)
    ]
    return Contact(contact.id, tuple(usable))
