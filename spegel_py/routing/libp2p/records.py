"""The holders of each key, as peers have announced them: the table behind every lookup. Pure.

Time and randomness are passed in. There are two kinds of records:

1. A peer of the announce protocol has one *set*, which it keeps current. The set lives as long as
   the peer announces: its time to live is twice the interval the peer gives.
2. A peer of standard Kademlia only (Spegel in Go) has single *provider records*, each with its own
   time to live.

Both count only while the peer is connected: a peer that loses its connection is hidden at once. The
table is read from the asyncio thread and written from the Trio thread. One lock guards it, held for
microseconds.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from spegel_py.routing.base import Member, Peer
from spegel_py.routing.libp2p.peer_records import MAX_KEYS_PER_PEER, PeerRecords
from spegel_py.tools.bounded import BoundedDict

MAX_RECORDS_PER_ADDRESS = 2 * MAX_KEYS_PER_PEER
"""Records of all peers at one address: one peer's set and its next one while that is being sent.
They take 7 MB."""

MAX_RECORDS = 1_000_000
"""Records of all peers together, with sets that are still being sent. At 110 bytes each they take
110 MB, which keeps a node below the chart's limit of 384 MiB."""

MAX_GOODBYES = 1024
"""Peers that said goodbye and are remembered, so that they do not count as lost."""


class RecordTable:
    """The records of all peers, by libp2p's base58 peer id. Keys are the 32-byte hashes of names.

    Args:
        changed: is called, in any thread, when the partners of in-flight sharing may have changed.
    """

    def __init__(self, *, rng: random.Random, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._members: dict[str, PeerRecords] = {}
        self._goodbyes: BoundedDict[str, None] = BoundedDict(limit=MAX_GOODBYES)
        self._lock = threading.Lock()
        self._rng = rng

    def __repr__(self) -> str:
        return f"<RecordTable {len(self._members)} peers, {self.size()} records>"

    # Lookups

    def providers(self, key: bytes, now: float, *, max_age: float = math.inf) -> list[Peer]:
        """Return the connected peers with a live record of `key`, in random order.

        Peers known to have pulled a tag more than `max_age` seconds ago are left out.
        """
        with self._lock:
            found = [
                peer
                for member in self._members.values()
                if (peer := member.holder(key, now, max_age))
            ]
        self._rng.shuffle(found)
        return found

    def knows_all(self, now: float) -> bool:
        """Return True if every connected peer's whole set is held, so that a miss is certain."""
        with self._lock:
            return all(self._members[peer_id].is_current(now) for peer_id in self._present())

    def is_partial(self) -> bool:
        """Return True if a connected peer announces only to the peers closest to a key.

        Then other peers may know further holders.
        """
        with self._lock:
            return any(
                m.connected and m.announces and (m.is_cut or not m.complete)
                for m in self._members.values()
            )

    def departed(self, peer_id: str) -> bool:
        """Return True if the peer was known and is not connected any more."""
        with self._lock:
            member = self._members.get(peer_id)
            return member is not None and not member.connected

    def is_connected(self, peer_id: str) -> bool:
        """Return True if the peer is connected."""
        with self._lock:
            return self._connected(peer_id) is not None

    def address(self, peer_id: str) -> Peer | None:
        """Return the registry of a connected peer that announces."""
        with self._lock:
            return member.peer if (member := self._connected(peer_id)) else None

    def partners(self, now: float) -> dict[str, Peer]:
        """Return the connected peers that take part in in-flight sharing, by id."""
        with self._lock:
            return {
                peer_id: member.peer
                for peer_id, member in self._members.items()
                if member.connected
                and member.shares
                and member.peer is not None
                and member.expires > now
            }

    # Views for metrics, the state page and supervision

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

    def members(self, now: float) -> list[Member]:
        """Return a description of every connected peer."""
        with self._lock:
            return [
                Member(
                    id=peer_id,
                    address=(at.authority if (at := member.peer or member.provided_at) else ""),
                    peer=member.peer or member.provided_at,
                    interval=member.interval if member.announces else None,
                    agent=member.agent,
                    keys=len(member.keys) + len(member.provided),
                    heard=member.heard_ago(now),
                    skew=member.skew,
                )
                for peer_id in self._present()
                for member in [self._members[peer_id]]
            ]

    def size(self) -> int:
        """Return the number of records."""
        return sum(self.records().values())

    def records(self) -> dict[str, int]:
        """Return the number of records that were announced, and that were provided one by one."""
        with self._lock:
            members = self._members.values()
            return {
                "announced": sum(len(member.keys) for member in members),
                "provided": sum(len(member.provided) for member in members),
            }

    def protocols(self) -> dict[str, int]:
        """Return the number of connected peers that announce, and that speak kademlia only."""
        with self._lock:
            announce = [member.announces for member in self._members.values() if member.connected]
            return {"announce": announce.count(True), "kademlia": announce.count(False)}

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

    def expire(self, now: float) -> None:
        """Drop the provider records that have expired."""
        with self._lock:
            for member in self._members.values():
                member.expire(now)

    # Connections

    def peer_connected(self, peer_id: str, *, bound_key: str = "") -> None:
        """Record a connected peer. Peers with one `bound_key` share a bound; by default none do."""
        with self._lock:
            member = self._members.setdefault(peer_id, PeerRecords())
            member.connected = True
            member.bound_key = bound_key or member.bound_key or peer_id

    def peer_disconnected(self, peer_id: str) -> None:
        """Hide a peer, and drop its announced set, which the peer sends again when it is back."""
        with self._lock:
            before = self._members.get(peer_id, PeerRecords())
            self._members[peer_id] = PeerRecords(
                bound_key=before.bound_key,
                provided=before.provided,
                provided_at=before.provided_at,
            )
        if before.shares:
            self._changed()

    def peer_left(self, peer_id: str) -> None:
        """Record a goodbye: the peer is not lost, until it sends a hello again.

        A mere connection does not undo the goodbye: a node may dial the peer while it is leaving.
        """
        with self._lock:
            self._goodbyes[peer_id] = None

    def forget_departed(self, keep: int) -> None:
        """Forget the oldest departed peers beyond `keep`, so that churn costs no memory."""
        with self._lock:
            gone = [i for i, member in self._members.items() if not member.connected]
            for peer_id in gone[: max(0, len(gone) - keep)]:
                del self._members[peer_id]

    def clear(self) -> None:
        """Forget all peers."""
        with self._lock:
            self._members.clear()
        self._changed()

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
    ) -> None:
        """Record a peer's hello.

        Args:
            peer: the address of its registry.
            interval: seconds between two announcements.
            skew: seconds by which its clock is ahead of this node's.
            shares: True if it takes part in in-flight sharing.
        """
        with self._lock:
            if (member := self._connected(peer_id)) is None:
                return
            before = member.shares, member.peer
            member.announces, member.peer, member.interval = True, peer, interval
            member.renew(now)
            member.agent, member.skew, member.shares = agent, skew, shares
            self._goodbyes.pop(peer_id, None)
        if before != (shares, peer):
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

    # `PeerRecords` documents these methods; here they get the lock and the room.

    def stage(self, peer_id: str, keys: Iterable[bytes], *, first: bool) -> int:
        with self._lock:
            if not (member := self._connected(peer_id)):
                return 0
            if first:
                member.staged = None  # its records make room for the new ones
            return member.stage(keys, room=self._room(member))

    def commit(self, peer_id: str, *, complete: bool) -> None:
        with self._lock:
            if member := self._connected(peer_id):
                member.commit(complete=complete)

    def add(self, peer_id: str, keys: Iterable[bytes]) -> int:
        with self._lock:
            member = self._connected(peer_id)
            return member.add(keys, room=self._room(member)) if member else 0

    def remove(self, peer_id: str, keys: Iterable[bytes]) -> None:
        with self._lock:
            if member := self._connected(peer_id):
                member.remove(keys)

    def record_ages(self, peer_id: str, ages: Iterable[tuple[bytes, int]], now: float) -> None:
        with self._lock:
            if member := self._connected(peer_id):
                member.record_ages(ages, now, room=self._room(member))

    def in_step(self, peer_id: str, *, count: int, check: int) -> bool:
        with self._lock:
            member = self._connected(peer_id)
            return member is not None and member.in_step(
                count=count, check=check, room=self._room(member)
            )

    def provide(self, peer_id: str, key: bytes, peer: Peer, *, expires: float) -> bool:
        with self._lock:
            member = self._members.setdefault(peer_id, PeerRecords())
            return member.provide(key, peer, expires=expires, room=self._room(member))

    # Inside, under the lock

    def _present(self) -> list[str]:
        """Return the connected peers, but not leaving ones that were dialled once more."""
        return [
            i for i, member in self._members.items() if member.connected and i not in self._goodbyes
        ]

    def _connected(self, peer_id: str) -> PeerRecords | None:
        member = self._members.get(peer_id)
        return member if member is not None and member.connected else None

    def _room(self, member: PeerRecords) -> int:
        """Return how many more records of a peer may be held: the lesser of two bounds.

        Bound 1, its address: the records left to all peers with the same bound key.
        Bound 2, all peers: the records left in the table. If fewer are left than the peer's equal
        part of half the table, it gets that part, so that no peer shuts out the others.
        """
        members = self._members.values()
        left = MAX_RECORDS - sum(each.size for each in members)
        part = MAX_RECORDS // 2 // max(1, len(members)) - member.size
        at_address = MAX_RECORDS_PER_ADDRESS - sum(
            each.size for each in members if each.bound_key == member.bound_key
        )
        return min(max(left, part), at_address)
