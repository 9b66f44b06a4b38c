"""The peers that are connected, or were: what each said in its hello, and how long that counts.

Time is passed in. The table is read from the asyncio thread and written from the Trio thread. One
lock guards it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p.holders import HolderIndex
from spegel_py.routing.libp2p.peer_records import PeerRecords
from spegel_py.routing.peer_proofs import PeerKey, ToldKey
from spegel_py.tools.bounded import BoundedDict

MAX_GOODBYES = 1024
"""Peers that said goodbye and are remembered, so that they do not count as lost."""

MAX_ZONES = 4096
"""Peers whose zones are remembered, so that a lost peer's replicas count in its zone."""


class PeerTable:
    """The peers of a node, by libp2p's base58 peer id.

    Args:
        changed: is called, in any thread, when the partners of a protocol may have changed.
    """

    def __init__(self, *, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._index = HolderIndex()
        self._members: dict[str, PeerRecords] = {}
        self._goodbyes: BoundedDict[str, None] = BoundedDict(limit=MAX_GOODBYES)
        self._zones: BoundedDict[str, str] = BoundedDict(limit=MAX_ZONES)
        self._lock = threading.Lock()
        # When the next whole set expires; -inf if one is not whole, None if that is to be found.
        self._whole_until: float | None = None
        self._is_partial = False

    # Views

    def is_connected(self, peer_id: str) -> bool:
        """Return True if the peer is connected."""
        with self._lock:
            return self._connected(peer_id) is not None

    def address(self, peer_id: str) -> Peer | None:
        """Return the registry of a connected peer that announces."""
        with self._lock:
            return member.peer if (member := self._connected(peer_id)) else None

    def http_key(self, peer_id: str) -> PeerKey | None:
        """Return the key for HTTP requests to a connected peer, None if it told none."""
        with self._lock:
            return member.http_key if (member := self._connected(peer_id)) else None

    def partners(self, now: float) -> dict[str, Peer]:
        """Return the connected peers that take part in in-flight sharing, by id."""
        with self._lock:
            return {
                member.id: member.peer
                for member in self._reachable(now)
                if member.shares and member.peer is not None
            }

    def keepers(self, now: float) -> dict[str, Peer]:
        """Return the connected peers that answer requests about replicas, by id."""
        with self._lock:
            return {
                member.id: member.peer
                for member in self._reachable(now)
                if member.floor is not None and member.peer is not None
            }

    def floors(self, now: float) -> dict[str, int]:
        """Return the replicas of each image that those peers want, by id."""
        with self._lock:
            return {
                member.id: member.floor
                for member in self._reachable(now)
                if member.floor is not None
            }

    def zones(self) -> dict[str, str]:
        """Return the zones of the peers that named one, by id, with those of lost peers."""
        with self._lock:
            return dict(self._zones)

    def left(self, peer_id: str) -> bool:
        """Return True if a peer said goodbye and is not back."""
        with self._lock:
            return peer_id in self._goodbyes

    def goodbyes(self) -> frozenset[str]:
        """Return the latest MAX_GOODBYES peers that said goodbye and are not back."""
        with self._lock:
            return frozenset(self._goodbyes)

    def connected(self) -> list[str]:
        """Return the connected peers, without leaving ones."""
        with self._lock:
            return self._present()

    def protocols(self) -> dict[str, int]:
        """Return the number of connected peers that announce, and that speak kademlia only."""
        with self._lock:
            announce = [member.announces for member in self._members.values() if member.connected]
            return {"announce": announce.count(True), "kademlia": announce.count(False)}

    def knows_all(self, now: float) -> bool:
        """Return True if every connected peer's whole set is held, so that a miss is certain."""
        with self._lock:
            until = self._whole_until
            if until is None or -math.inf < until <= now:
                until = self._judge_sets()
            return until > now

    def is_partial(self) -> bool:
        """Return True if a connected peer announces only to the peers closest to a key.

        Then other peers may know further holders.
        """
        with self._lock:
            if self._whole_until is None:
                self._judge_sets()
            return self._is_partial

    # Liveness

    def shortest_interval(self) -> float:
        """Return the shortest announced interval of a connected peer; infinite without one."""
        with self._lock:
            return min(
                (m.interval for m in self._members.values() if m.connected), default=math.inf
            )

    def next_end(self) -> float:
        """Return when the first announcement of a connected peer expires; infinite without one."""
        with self._lock:
            return min((m.expires for m in self._members.values() if m.connected), default=math.inf)

    def silent(self, now: float) -> list[str]:
        """Return the connected peers whose announcements have expired: they stopped announcing."""
        with self._lock:
            return [
                i
                for i, member in self._members.items()
                if member.connected and member.expires <= now
            ]

    # Connections

    def peer_connected(self, peer_id: str, *, bound_key: str = "") -> None:
        """Record a connected peer. Peers with one `bound_key` share a bound; by default none do."""
        with self._lock:
            member = self._member(peer_id)
            member.connected = True
            member.bound_key = bound_key or member.bound_key or peer_id
            self._whole_until = None

    def peer_left(self, peer_id: str) -> None:
        """Record a goodbye: the peer is not lost, until it sends a hello again.

        A mere connection does not undo the goodbye: a node may dial the peer while it is leaving.
        """
        with self._lock:
            self._goodbyes[peer_id] = None
            self._whole_until = None

    # Announcements. Those of a disconnected peer are ignored: a frame may arrive after the end.

    def hello(
        self,
        peer_id: str,
        peer: Peer,
        *,
        interval: float,
        now: float,
        agent: str = "",
        skew: float | None = None,
        shares: bool = False,
        floor: int | None = None,
        http_key: ToldKey | None = None,
    ) -> None:
        """Record a peer's hello.

        Args:
            peer: the address of its registry.
            interval: seconds between two announcements.
            skew: seconds by which its clock is ahead of this node's.
            shares: True if it takes part in in-flight sharing.
            floor: the replicas that it wants; None if it answers no requests about them.
            http_key: the key for HTTP requests to it, as it told it now.
        """
        with self._lock:
            if (member := self._connected(peer_id)) is None:
                return
            before = member.shares, member.floor, member.peer
            self._zones.pop(peer_id, None)
            if peer.zone:
                self._zones[peer_id] = peer.zone
            member.announces, member.peer, member.interval = True, peer, interval
            member.renew(now)
            member.agent, member.skew = agent, skew
            member.shares, member.floor = shares, floor
            member.http_key = PeerKey.told(http_key, now=now) if http_key else None
            self._goodbyes.pop(peer_id, None)
            self._whole_until = None
        if before != (shares, floor, peer):
            self._changed()

    def locate(self, peer_id: str, host: str) -> None:
        """Record the proven IP address of a connected peer's registry."""
        with self._lock:
            if (member := self._connected(peer_id)) is None:
                return
            before = member.peer
            if before is not None:
                member.peer = replace(before, host=host)
            if member.provided_at is not None:
                member.provided_at = replace(member.provided_at, host=host)
        if member.peer != before:
            self._changed()

    def heard(self, peer_id: str, now: float) -> None:
        """Renew an announcing peer's set, since a frame came."""
        with self._lock:
            if (member := self._connected(peer_id)) and member.announces:
                member.renew(now)

    # Inside, under the lock

    def _reachable(self, now: float) -> Iterator[PeerRecords]:
        """Yield the connected peers whose registry is known."""
        for member in self._members.values():
            if member.connected and member.peer is not None and member.expires > now:
                yield member

    def _member(self, peer_id: str) -> PeerRecords:
        """Return the state of a peer, a new one for a stranger."""
        if (member := self._members.get(peer_id)) is None:
            member = self._members[peer_id] = PeerRecords(peer_id, self._index)
        return member

    def _present(self) -> list[str]:
        """Return the connected peers, but not leaving ones that were dialled once more."""
        return [
            i for i, member in self._members.items() if member.connected and i not in self._goodbyes
        ]

    def _connected(self, peer_id: str) -> PeerRecords | None:
        member = self._members.get(peer_id)
        return member if member is not None and member.connected else None

    def _judge_sets(self) -> float:
        """Find whether all sets are whole, and return until when; kept until a set changes."""
        present = [self._members[peer_id] for peer_id in self._present()]
        is_whole = all(member.is_whole() for member in present)
        found = min((member.expires for member in present), default=math.inf)
        self._whole_until = found if is_whole else -math.inf
        self._is_partial = any(
            member.announces and (member.is_cut or not member.complete)
            for member in self._members.values()
            if member.connected
        )
        return self._whole_until
