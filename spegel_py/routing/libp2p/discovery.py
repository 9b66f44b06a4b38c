"""Finding members: asking peers for the peers they know, and dialling lost peers again."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import structlog
import trio
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p.dialling import (
    DIAL_TIMEOUT,
    MAX_DIALS,
    Dialler,
    PeerAddresses,
    prove,
)
from spegel_py.routing.libp2p.kademlia import CLOSEST, KademliaClient
from spegel_py.routing.libp2p.location import drop_unusable
from spegel_py.routing.libp2p.multiaddrs import Contact

log = structlog.get_logger(__name__)

DISCOVERY_INTERVAL = 60.0
"""Seconds between two searches for unknown members, each 15 ms of CPU, once all are met: this only
repairs. Until then there is a search every LOOK_AGAIN seconds, and fewer after failed ones."""
LOOK_AGAIN = 1.0
"""Seconds after which a peer that knew no other is asked again. By then it has the addresses of the
nodes that joined at the same moment, which takes some milliseconds."""
REDIAL_DELAYS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds between attempts to redial a lost peer; then it is left to discovery and bootstrap."""
WAIT_FOR_DIAL = 0.2
"""Least seconds that the node with the larger id leaves the dial to the other one: two nodes that
hear of each other at the same time would dial both, and keep two connections."""
EMPTY_AT_LEAST = 3
"""Answers in a row without an unknown member, at least, after which new peers are asked
together."""
MISSED = 1e-4
"""Probability that an unknown member is still left after such answers."""
TOGETHER = 0.25
"""Seconds in which the new peers of a complete mesh are asked together, through one of them."""
ALL_KNOWN = CLOSEST - 2
"""Peers in an answer up to which it has all that the asked peer knows. go-libp2p, and nodes of
older versions, name one less than CLOSEST where the asking node is itself among the closest."""
OF_A_NEWCOMER = 0.2
"""Weight of an answer in vain of a peer that knows fewer members than this node. It shows little,
but a cluster with such peers must not be searched for ever."""
SOUGHT = 4
"""Lost peers dialled at a time: each leads to all members, and a dial without an answer
takes 3 s."""
UNKNOWN = "0.0.0.0"  # noqa: S104 - it is compared only
"""Stands for the address of a peer that is not connected any more."""


class MemberDiscovery:
    """Finds and dials members.

    Args:
        connected: the connected peers, each with the IP address it is connected from.
    """

    def __init__(
        self,
        *,
        host: BasicHost,
        addresses: PeerAddresses,
        dialler: Dialler,
        kademlia: KademliaClient,
        connected: Mapping[ID, str],
        rng: random.Random,
    ) -> None:
        self._host = host
        self._addresses = addresses
        self._dialler = dialler
        self._kademlia = kademlia
        self._connected = connected
        self._rng = rng
        self._lost: set[ID] = set()
        self._is_stopped = False
        self._in_vain = 0.0
        """Answers in a row about a random place that named no unknown member."""
        self._is_pausing = False
        # Peers named by other peers may not exist. Half of the dials is kept for bootstrap and
        # lost peers.
        self._named_dials = trio.CapacityLimiter(MAX_DIALS // 2)

    def __repr__(self) -> str:
        return f"<MemberDiscovery {len(self._connected)} connected, {len(self._lost)} lost>"

    def stop(self) -> None:
        """Dial no peer any more: this node leaves."""
        self._is_stopped = True

    async def run(self) -> None:
        """Search for unknown members until cancelled.

        Peers that start together answer late, so the questions that `explore` asks each new peer
        may all be in vain. The search goes on until enough answers named nobody new.
        """
        failures = 0
        while True:
            pause = DISCOVERY_INTERVAL if self._has_met_all() else LOOK_AGAIN * 2**failures
            await trio.sleep(min(pause, DISCOVERY_INTERVAL) * self._rng.uniform(0.8, 1.2))
            if self._connected:
                failures = min(failures + 1, 6)
                peer = self._rng.choice(list(self._connected))
                with tolerating("exploring failed", peer):
                    await self._dial_through(peer)
                    failures = 0

    # Dialling

    async def dial(self, addresses: Iterable[Multiaddr], expected: ID | None) -> bool:
        """Try a peer's addresses in turn. Return True once a connection is up.

        `expected` is the peer's id, None if it is unknown.
        """
        return not self._is_stopped and await self._dialler.dial(addresses, expected)

    async def dial_named(self, contacts: Iterable[Contact], *, has_time: bool = False) -> None:
        """Dial contacts that another peer named; returns when all were tried.

        If it `has_time`, a contact with a smaller id gets a moment to dial this node.
        """
        await self._dial_all(contacts, within=self._named_dials, has_time=has_time)

    async def prove(self, address: Multiaddr, peer: ID) -> None:
        """Return if a peer answers at an address it claims. Raises PeerUnreachable."""
        async with self._named_dials:
            await prove(self._host, address, expected=peer, timeout=DIAL_TIMEOUT)

    async def _dial_all(
        self,
        contacts: Iterable[Contact],
        *,
        within: trio.CapacityLimiter | None = None,
        has_time: bool = False,
    ) -> None:
        """Dial the contacts that are not connected yet, as many at a time as `within` allows."""
        own = self._host.get_id().to_bytes()

        async def dial(contact: Contact) -> None:
            if has_time and contact.id.to_bytes() < own:
                await trio.sleep(WAIT_FOR_DIAL * self._rng.uniform(1, 2))
            async with within or nullcontext():
                await self.dial(contact.addresses, contact.id)

        async with trio.open_nursery() as nursery:
            for contact in contacts:
                if contact.id != self._host.get_id() and contact.id not in self._connected:
                    nursery.start_soon(dial, contact)

    # Lost peers

    @property
    def has_lost(self) -> bool:
        """True if there are lost peers."""
        return bool(self._lost)

    def mark_lost(self, peer: ID) -> None:
        """Record a peer that disconnected without a goodbye."""
        self._lost.add(peer)

    def mark_connected(self, peer: ID) -> None:
        """Record that a peer is connected, so no longer lost."""
        self._lost.discard(peer)

    def forget(self, peer: ID) -> None:
        """Forget a peer and its addresses: it said goodbye, or was redialled in vain."""
        self._addresses.forget(peer)
        self._lost.discard(peer)

    async def dial_lost(self) -> None:
        """Dial SOUGHT of the lost peers, chosen at random; returns when all were tried."""
        lost = [peer for peer in self._lost if peer in self._addresses]
        chosen = self._rng.sample(lost, min(SOUGHT, len(lost)))
        await self._dial_all(Contact(peer, self._addresses.remembered(peer)) for peer in chosen)

    async def redial(self, peer: ID) -> None:
        """Dial one lost peer ever less often, until it is connected, forgotten or given up."""
        for delay in REDIAL_DELAYS:
            await trio.sleep(delay * self._rng.uniform(0.7, 1.3))
            if peer in self._connected or peer not in self._addresses:
                return
            with tolerating("reaching a peer again failed", peer):
                await self.dial(self._addresses.remembered(peer), peer)
        if peer not in self._connected:
            self.forget(peer)

    # Asking peers for others

    def usable(self, contact: Contact, *, named_by: ID) -> Contact:
        """Return a contact that a peer named, without its unusable addresses."""
        return drop_unusable(contact, self._connected.get(named_by, UNKNOWN))

    async def explore(self, peer: ID) -> None:
        """Connect to the peers that a peer knows, and ask it once more if it knows none.

        Nodes that join at the same moment need the second try: the peer has not received their
        addresses yet, and the first one to join is told of no other.

        Once enough peers in a row were asked in vain, this node has met all members. Then one of
        the peers that come within TOGETHER is asked: it may belong to the other half of a cluster.
        """
        if self._has_met_all():
            if self._is_pausing:
                return
            self._is_pausing = True
            try:
                await trio.sleep(TOGETHER)
            finally:
                self._is_pausing = False
        with tolerating("exploring failed", peer):
            if not await self._dial_through(peer):
                await trio.sleep(LOOK_AGAIN)
                await self._dial_through(peer)

    def _has_met_all(self) -> bool:
        return self._in_vain >= enough_answers(1 + len(self._connected))

    async def _dial_through(self, peer: ID) -> bool:
        """Ask a peer for the nodes near this node and near a random place, and connect to them.

        Return True if it knew any.
        """
        own, knows_any = self._host.get_id(), False
        for target in (own.to_bytes(), random_place := os.urandom(34)):
            named = await self._kademlia.find_node(peer, target, known=self._connected)
            others = [contact for contact in named if contact.id != own]
            found = [
                self.usable(contact, named_by=peer)
                for contact in others
                if contact.id not in self._connected
            ]
            if any(contact.id not in self._addresses for contact in found):
                self._in_vain = 0
            elif len(named) <= ALL_KNOWN:
                # It named all that it knows, but this node, which has its own peers and that one.
                knows_all = len(named) + 1 >= len(self._connected)
                self._in_vain += 1 if knows_all else OF_A_NEWCOMER
            elif target == random_place:  # the answer about this node's own place is always alike
                self._in_vain += 1
            self._addresses.remember(found)
            await self.dial_named(found, has_time=True)
            knows_any = knows_any or bool(others)
            if len(named) <= ALL_KNOWN:  # it knows no others
                break
        return knows_any


def enough_answers(members: int) -> int:
    """Return the number of answers in a row that named no unknown member, after which none is left.

    An answer about a random place names CLOSEST of the members, and so an unknown one with the
    probability CLOSEST / members. After the returned number of answers one is still unknown with
    the probability MISSED.
    """
    if members <= CLOSEST:
        return EMPTY_AT_LEAST
    return max(EMPTY_AT_LEAST, math.ceil(math.log(MISSED) / math.log(1 - CLOSEST / members)))


@contextmanager
def tolerating(event: str, peer: ID) -> Iterator[None]:
    """Log any error with one peer for debugging, and let it go no further.

    py-libp2p raises many kinds of exceptions, and Trio groups them, even with a cancellation that
    comes at the same moment. The cancellation goes on, as it must.
    """
    try:
        yield
    except* Exception as group:  # noqa: BLE001 - an error with one peer must not end this node
        log.debug(event, peer=str(peer), error=repr(group))
