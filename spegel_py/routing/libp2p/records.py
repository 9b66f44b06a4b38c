"""The holders of each key, as peers have announced them: the table behind every lookup. Pure.

Time and randomness are passed in. There are two kinds of records:

1. A peer of the announce protocol has one *set*, which it keeps current. The set lives as long as
   the peer announces: its time to live is twice the interval the peer gives.
2. A peer of standard Kademlia only (Spegel in Go) has single *provider records*, each with its own
   time to live.

Both count only while the peer is connected: a peer that loses its connection is hidden at once. The
table is read from the asyncio thread and written from the Trio thread. One lock guards it. Longer
work is done in steps, and the lock is released after each, so that no lookup waits for it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog

from spegel_py.routing.base import Member, Peer
from spegel_py.routing.libp2p.holders import HolderIndex, slots
from spegel_py.routing.libp2p.peer_records import MAX_KEYS_PER_PEER, PeerRecords
from spegel_py.routing.libp2p.peer_table import PeerTable
from spegel_py.routing.libp2p.shedding import Shedding, rank_of, ranked_holders

log = structlog.get_logger(__name__)

MAX_RECORDS_PER_ADDRESS = 2 * MAX_KEYS_PER_PEER
"""Records of all peers at one address: one peer's set and its next one while that is being sent.
They take 15 MB if nobody else holds their keys."""

STEP = 1024
"""Keys swept or ranked under one lock: 0.3 ms."""

SPARE = 1 / 16
"""Share of the index that is free after keys were shed, so that the next pass comes not too
soon."""

RELIEVED = 3 / 4
"""Share of the index below which it counts as relieved. Only then are cut sets asked for again:
otherwise they would be shed again at once."""


SAMPLE = 256
"""Holders of a key among which those of this node's zone are found: in each of 20 zones there are
12 on average. A lookup takes 0.3 ms for them."""


def choose(peers: Sequence[Peer], zone: str, limit: int | None) -> list[Peer]:
    """Return `limit` of the peers, or all.

    Peers of the zone come first, but a quarter of the places is for others, which are left if the
    zone fails.
    """
    if limit is None or len(peers) <= limit:
        return list(peers)
    near = [peer for peer in peers if zone and peer.zone == zone]
    far = [peer for peer in peers if not zone or peer.zone != zone]
    others = min(len(far), max(limit // 4, limit - len(near)))
    return near[: limit - others] + far[:others]


class RecordTable(PeerTable):
    """The records of all peers, by libp2p's base58 peer id. Keys are the 32-byte hashes of names.

    Args:
        changed: is called, in any thread, when the partners of in-flight sharing may have changed.
        shed: is called when records were given up because the table was full.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        zone: str = "",
        changed: Callable[[], None] = lambda: None,
        shed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(changed=changed)
        self._rng = rng
        self._zone = zone
        self._shed = shed
        self._is_full = False
        self._futile = math.inf
        """The least claim of an address for which too little could be shed lately."""

    def __repr__(self) -> str:
        return f"<RecordTable {len(self._members)} peers, {self.size()} records>"

    # Lookups

    def providers(
        self, key: bytes, now: float, *, max_age: float = math.inf, limit: int | None = None
    ) -> list[Peer]:
        """Return the connected peers with a live record of `key`, in random order.

        Peers known to have pulled a tag more than `max_age` seconds ago are left out. If there are
        more than `limit` peers, up to three quarters of it are from this node's own zone.

        Args:
            limit: how many peers to return at most, None for all.
        """
        found: dict[str, Peer] = {}
        enough = limit if limit is None or not self._zone else max(limit, SAMPLE)
        with self._lock:
            mask = self._index.mask(key)
            places = slots(mask)
            while places and len(found) != enough:
                # A random one comes to the end, and is taken from there.
                chosen = int(self._rng.random() * len(places))
                places[chosen], places[-1] = places[-1], places[chosen]
                owner = self._index.at(places.pop()).owner
                if owner not in found and (
                    peer := self._members[owner].holder(mask, key, now, max_age)
                ):
                    found[owner] = peer
        return choose(list(found.values()), self._zone, limit)

    # Views for metrics, the state page and supervision

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
                    keys=member.announced_count + member.provided_count,
                    heard=member.heard_ago(now),
                    skew=member.skew,
                    has_proofs=member.http_key is not None,
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
                "announced": sum(member.announced_count for member in members),
                "provided": sum(member.provided_count for member in members),
            }

    # Upkeep

    def expire(self, now: float) -> None:
        """Drop the provider records that have expired, and free the memory of dropped sets."""
        with self._lock:
            for member in self._members.values():
                member.expire(now)
            self._futile = math.inf
        self._sweep()
        with self._lock:
            is_relieved = self._is_full and len(self._index) < self._index.capacity * RELIEVED
            self._is_full = self._is_full and not is_relieved
            keys = len(self._index)
        if is_relieved:
            log.info("record table has room again", keys=keys)

    def peer_disconnected(self, peer_id: str) -> None:
        """Hide a peer, and drop its announced set, which the peer sends again when it is back."""
        with self._lock:
            before = self._members.get(peer_id, PeerRecords(peer_id, self._index))
            self._members[peer_id] = PeerRecords(
                peer_id,
                self._index,
                bound_key=before.bound_key,
                provided=before.provided,
                provided_at=before.provided_at,
            )
            before.provided = []
            before.drop()
            self._whole_until = None
        if before.shares or before.floor is not None:
            self._changed()

    def forget_departed(self, keep: int) -> None:
        """Forget the oldest departed peers beyond `keep`, so that churn costs no memory."""
        with self._lock:
            gone = [i for i, member in self._members.items() if not member.connected]
            for peer_id in gone[: max(0, len(gone) - keep)]:
                self._members.pop(peer_id).drop()

    def clear(self) -> None:
        """Forget all peers."""
        with self._lock:
            self._members.clear()
            self._index = HolderIndex()
            self._whole_until = None
        self._changed()

    # `PeerRecords` documents these methods; here they get the lock and the room. Records of a
    # disconnected peer are ignored: a frame may arrive after the end.

    def stage(self, peer_id: str, keys: Collection[bytes], *, first: bool) -> int:
        self._make_room(peer_id, keys)
        with self._lock:
            if not (member := self._connected(peer_id)):
                return 0
            if first:
                member.unstage()  # its records make room for the new ones
            return member.stage(keys, room=self._room(member))

    def commit(self, peer_id: str, *, complete: bool) -> None:
        with self._lock:
            if member := self._connected(peer_id):
                member.commit(complete=complete)
                self._whole_until = None

    def add(self, peer_id: str, keys: Collection[bytes]) -> int:
        self._make_room(peer_id, keys)
        with self._lock:
            if not (member := self._connected(peer_id)):
                return 0
            refused = member.add(keys, room=self._room(member))
            if refused:
                self._whole_until = None
            return refused

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
            if not (member := self._connected(peer_id)):
                return False
            spare = max(0, int(self._index.capacity * RELIEVED) - len(self._index))
            room = min(self._room(member), member.announced_count + spare)
            return member.in_step(count=count, check=check, room=room)

    def provide(self, peer_id: str, key: bytes, peer: Peer, *, expires: float) -> bool:
        self._make_room(peer_id, (key,))
        with self._lock:
            member = self._member(peer_id)
            return member.provide(key, peer, expires=expires, room=self._room(member))

    # Room

    def _room(self, member: PeerRecords) -> int:
        """Return how many more records may be held of all peers at one peer's address."""
        return MAX_RECORDS_PER_ADDRESS - sum(
            each.size for each in self._members.values() if each.bound_key == member.bound_key
        )

    def _sweep(self) -> None:
        is_left = True
        while is_left:
            with self._lock:
                is_left = self._index.sweep(STEP)

    def _make_room(self, peer_id: str, keys: Collection[bytes]) -> None:
        """Shed the least useful keys if a peer's keys do not fit into the index."""
        with self._lock:
            index = self._index
            if len(index) + len(keys) <= index.capacity or not self._connected(peer_id):
                return
        self._sweep()
        with self._lock:
            fresh = index.unknown(keys)
            wanted = len(index) + fresh - index.capacity
            if wanted <= 0 or not (member := self._connected(peer_id)):
                return
            own, shedding = self._shedding(member, fresh, wanted)
            if own >= self._futile:
                return
        is_left = True
        while is_left:
            with self._lock:
                is_left = shedding.step(STEP)
        with self._lock:
            is_news, self._is_full, self._whole_until = not self._is_full, True, None
            if len(index) + wanted > index.capacity:
                self._futile = own
        if is_news:
            log.warning("record table is full", keys=len(index), shed=shedding.records)
        if shedding.records:
            self._shed()

    def _shedding(self, member: PeerRecords, fresh: int, wanted: int) -> tuple[int, Shedding]:
        """Return the claim of a peer's address, and a pass that gives up keys for it.

        Args:
            fresh: keys that the peer announces, and no other peer.
            wanted: keys that must be given up.
        """
        claims: Counter[str] = Counter()
        for each in self._members.values():
            claims[each.bound_key] += each.claim
        most = max(claims[each.bound_key] for each in self._members.values() if each.connected)
        own = claims[member.bound_key] + fresh
        levels = ranked_holders(
            (
                (keys.bit, claims[each.bound_key] if each.connected else math.inf)
                for each in self._members.values()
                for keys in each.sets()
            ),
            most=most,
        )
        spare = int(self._index.capacity * SPARE)
        least = rank_of(own, most) + 1
        return own, Shedding(self._index, levels=levels, least=least, wanted=wanted + spare)
