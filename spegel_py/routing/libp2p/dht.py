"""This node's part in the DHT: lookups of one hop, and answers to other nodes' lookups."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p.kademlia import CLOSEST, KademliaClient
from spegel_py.routing.libp2p.keys import closest, position, record_key
from spegel_py.routing.libp2p.mesh import Mesh
from spegel_py.routing.libp2p.multiaddrs import (
    Contact,
    is_registry,
    registry_address,
    registry_port,
)
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import LocalKeys

STANDARD_TTL = 19 * 60.0
"""Seconds for which a standard provider record is kept: Spegel's own validity (15 min + 2 × 2
min)."""
MAX_ASKED = 6
"""Peers asked in one lookup at most, when the closest ones are slow or fail."""
MAX_MET = 4
"""Unconnected providers dialled in one lookup: all members are connected, so these have just
joined."""
FIRST_WAVE = 3
"""Peers asked at once: each of the closest peers has a record, unless the peer has just joined."""
HEDGE_DELAY = 0.03
"""Seconds without an answer after which one more peer is asked; an answer takes 4 ms."""
PATIENCE = 0.15
"""Seconds to wait for a silent peer of the first wave after enough others have answered: it is
closest to the key, and may be the only peer with a record."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Dht:
    """Finds the providers of keys, and answers the Kademlia messages of other nodes.

    Args:
        own: this node's peer id.
        provider_addresses: returns the addresses for provider records of this node's keys.
        registry_port: assumed for a peer that does not announce its registry's port.
    """

    def __init__(
        self,
        *,
        own: ID,
        table: RecordTable,
        local: LocalKeys,
        kademlia: KademliaClient,
        mesh: Mesh,
        provider_addresses: Callable[[], list[Multiaddr]],
        registry_port: int,
    ) -> None:
        self._own = own
        self._table = table
        self._local = local
        self._kademlia = kademlia
        self._mesh = mesh
        self._provider_addresses = provider_addresses
        self._registry_port = registry_port

    async def find_providers(
        self, key: bytes, found: Callable[[Peer], None], limit: int, known: set[str]
    ) -> None:
        """Ask the peers closest to a key for its providers.

        `found` is called with each provider that is not `known` yet, until there are `limit` of
        both together.
        """
        seen, taken = {str(self._own), *known}, {str(self._own), *known}

        def take(peer: Peer | None) -> bool:
            if peer is not None and peer.id not in taken and len(taken) <= limit:
                taken.add(peer.id)
                found(peer)
            return len(taken) > limit

        async def connect(contact: Contact) -> None:
            """Offer a provider only once it is connected: its address is another peer's claim."""
            dialled = tuple(each for each in contact.addresses if not is_registry(each))
            await self._mesh.discovery.dial_named([Contact(contact.id, dialled)])
            take(self._usable(contact))

        async def ask(peer: ID) -> list[Contact]:
            named = await self._kademlia.get_providers(peer, key)
            return [self._mesh.discovery.usable(contact, named_by=peer) for contact in named]

        async with trio.open_nursery() as nursery:

            def consider(contact: Contact) -> bool:
                if (name := str(contact.id)) not in seen:
                    seen.add(name)
                    if not self._table.is_connected(name) and len(seen) <= MAX_MET + len(known):
                        nursery.start_soon(connect, contact)
                return take(self._usable(contact))

            await query_closest(self._nearest(record_key(key), MAX_ASKED), ask, consider)
            if len(taken) > limit:
                nursery.cancel_scope.cancel()

    # Answers to other nodes

    def providers(self, key: bytes) -> list[Contact]:
        """Return the holders of a key's hash, with the addresses of their registries."""
        found = [
            self._with_registry(peer)
            for peer in self._table.providers(key, time.monotonic(), limit=CLOSEST)
        ]
        if key in self._local.keys:
            found.insert(0, Contact(self._own, tuple(self._provider_addresses())))
        return found

    def closest(self, raw: bytes, asking: ID) -> list[Contact]:
        """Return the CLOSEST connected peers to a raw key, without the one that asks.

        A peer whose addresses are not known yet is left out.
        """
        near = (
            self._mesh.contact(peer) for peer in self._nearest(raw, 2 * CLOSEST) if peer != asking
        )
        return list(islice((contact for contact in near if contact.addresses), CLOSEST))

    def provide(self, sender: ID, key: bytes, addresses: Sequence[Multiaddr]) -> bool:
        """Keep a provider record of the sender. Return False if it was refused."""
        peer = self._at(sender, addresses)
        if peer is None:
            return False
        return self._table.provide(str(sender), key, peer, expires=time.monotonic() + STANDARD_TTL)

    def _with_registry(self, peer: Peer) -> Contact:
        contact = self._mesh.contact(ID.from_base58(peer.id))
        return Contact(contact.id, (*contact.addresses, registry_address(peer)))

    def _usable(self, contact: Contact) -> Peer | None:
        """Return the registry of a provider that a peer named; None if it is not connected."""
        name = str(contact.id)
        if not self._table.is_connected(name):
            return None
        return self._table.address(name) or self._at(contact.id, contact.addresses)

    def _at(self, peer: ID, addresses: Sequence[Multiaddr]) -> Peer | None:
        """Return a connected peer's registry: its proven host, and the port of `addresses`."""
        host = self._mesh.address_of(peer)
        port = registry_port(addresses, default=self._registry_port)
        return Peer(str(peer), host, port) if host else None

    def _nearest(self, raw: bytes, count: int) -> list[ID]:
        peers = {peer.to_bytes(): peer for peer in self._mesh.peers()}
        places = ((position(name), name) for name in peers)
        return [peers[name] for name in closest(position(raw), places, count)]


async def query_closest(
    candidates: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[Sequence[Answer]]],
    found: Callable[[Answer], bool],
) -> None:
    """Ask `candidates`, closest first, and pass each answer to `found`, until that returns True.

    FIRST_WAVE peers are asked at once. Each failure, and each HEDGE_DELAY seconds without an
    answer, adds the next peer. The query ends in three cases:

    Case 1: `found` has enough.
    Case 2: as many peers as in the first wave have answered, and all of the first wave are among
    them or have been silent for PATIENCE seconds.
    Case 3: every candidate has answered or failed.

    `ask` has a deadline of its own, raises PeerUnreachable, and may be cancelled.
    """
    left = list(candidates)
    first = set(range(min(FIRST_WAVE, len(left))))
    enough = len(first)
    send, receive = trio.open_memory_channel[tuple[int, Sequence[Answer] | None]](math.inf)
    start = trio.current_time()

    async def put(number: int, peer: Asked) -> None:
        try:
            answers: Sequence[Answer] | None = await ask(peer)
        except PeerUnreachable:
            answers = None
        send.send_nowait((number, answers))

    async with trio.open_nursery() as nursery:
        asked = waiting = answered = 0
        wanted = enough
        while answered < enough or (first and trio.current_time() < start + PATIENCE):
            while left and wanted > waiting:
                nursery.start_soon(put, asked, left.pop(0))
                asked, waiting = asked + 1, waiting + 1
            if not waiting:
                break
            answer = None
            with trio.move_on_after(
                HEDGE_DELAY if left or answered >= enough else math.inf
            ) as slow:
                answer = await receive.receive()
            if slow.cancelled_caught or answer is None:
                wanted = waiting + 1
                continue
            number, answers = answer
            waiting -= 1
            first.discard(number)
            wanted = waiting + (answers is None)
            answered += answers is not None
            results = [found(each) for each in answers or ()]
            if any(results):
                break
        nursery.cancel_scope.cancel()
