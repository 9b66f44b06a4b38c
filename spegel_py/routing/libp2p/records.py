"""Who holds what, as peers have told it: the table behind every lookup. Pure: time and randomness are passed in.

Two kinds of records live here. A peer that speaks the announce protocol has one *set* that it keeps current; the set
lives as long as the peer is heard from (its time to live is twice the interval it announces). A peer that speaks
only standard Kademlia (Spegel in Go) has single *provider records*, each with a time to live of its own.

Both are shown only while the peer is connected: a peer whose connection is lost is not offered any more, at once.
The table is read from the asyncio thread and written from the Trio thread; one lock guards it, held for microseconds.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from spegel_py.routing.base import Member, Peer
from spegel_py.tools.bounded import BoundedDict

MAX_KEYS_PER_PEER = 30_000
"""Keys one peer may announce, or provide one by one. 500 large images are about 10,000 keys."""

MAX_TAGS_PER_PEER = 10_000
"""Tags of one peer of which it is kept when the peer pulled them."""

MAX_RECORDS_PER_PLACE = 2 * MAX_KEYS_PER_PEER
"""Records of all peers at one address: one peer's set and, while it is sent anew, the next one. They take 7 MB."""

MAX_RECORDS = 1_000_000
"""Records of all peers together, those of sets that are still being sent included. At 110 bytes each they take 110 MB,
which keeps a node below the chart's limit of 384 MiB, whatever its peers announce."""

MAX_GOODBYES = 1024
"""Peers remembered that said goodbye, so that none of them counts as lost."""

TTL_FACTOR = 2
"""An announcement lives for this many of its sender's intervals (Dragonfly2's rule: 2 × the announced interval)."""


@dataclass(slots=True)
class _Member:
    connected: bool = False
    place: str = ""
    peer: Peer | None = None
    announces: bool = False
    complete: bool = False
    interval: float = math.inf
    expires: float = math.inf
    keys: set[bytes] = field(default_factory=set)
    staged: set[bytes] | None = None
    checksum: int = 0
    pulled: dict[bytes, float] = field(default_factory=dict)
    agent: str = ""
    skew: float | None = None
    shares: bool = False
    provided: dict[bytes, float] = field(default_factory=dict)
    provided_at: Peer | None = None
    is_cut: bool = False
    """The peer announced more than is kept of it: to ask for its set again would be in vain."""

    @property
    def size(self) -> int:
        """Return the number of records held of the peer."""
        return len(self.keys) + len(self.staged or ()) + len(self.pulled) + len(self.provided)

    def holder(self, key: bytes, now: float, max_age: float) -> Peer | None:
        if not self.connected:
            return None
        if key in self.keys and self.expires > now:
            return self.peer if now - self.pulled.get(key, now) <= max_age else None
        return self.provided_at if self.provided.get(key, 0.0) > now else None

    def heard_ago(self, now: float) -> float | None:
        return now - (self.expires - TTL_FACTOR * self.interval) if self.announces else None

    def current(self, now: float) -> bool:
        return self.announces and self.complete and not self.is_cut and self.expires > now


def checksum(keys: Iterable[bytes]) -> int:
    """Return an order-free checksum of a key set, cheap to keep current: the XOR of each key's first 8 bytes."""
    total = 0
    for key in keys:
        total ^= int.from_bytes(key[:8], "big")
    return total


class RecordTable:
    """The records of all peers. Peer ids are libp2p's base58 texts; keys are the 32-byte hashes of names.

    `changed` is called, in any thread, when those that share what they are pulling may be others than before.
    """

    def __init__(self, *, rng: random.Random, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._members: dict[str, _Member] = {}
        self._goodbyes: BoundedDict[str, None] = BoundedDict(limit=MAX_GOODBYES)
        self._lock = threading.Lock()
        self._rng = rng

    def __repr__(self) -> str:
        return f"<RecordTable {len(self._members)} peers, {self.size()} records>"

    # Reading

    def providers(self, key: bytes, now: float, *, max_age: float = math.inf) -> list[Peer]:
        """Return the connected peers with a live record of `key`, in random order.

        Left out are those that said that they pulled it, a tag, more than `max_age` seconds ago.
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
        """Say whether every connected peer's whole set is held, so that a key nobody has here nobody has."""
        with self._lock:
            return all(self._members[peer_id].current(now) for peer_id in self._present())

    def is_partial(self) -> bool:
        """Say whether some connected peer tells only those closest to a key: others may know of further holders."""
        with self._lock:
            return any(
                m.connected and m.announces and (m.is_cut or not m.complete)
                for m in self._members.values()
            )

    def is_connected(self, peer_id: str) -> bool:
        with self._lock:
            member = self._members.get(peer_id)
            return member is not None and member.connected

    def departed(self, peer_id: str) -> bool:
        """Say whether the peer was known here and is not connected any more."""
        with self._lock:
            member = self._members.get(peer_id)
            return member is not None and not member.connected

    def left(self, peer_id: str) -> bool:
        """Say whether a peer that is not connected any more has said goodbye."""
        with self._lock:
            return peer_id in self._goodbyes

    def address(self, peer_id: str) -> Peer | None:
        """Return where a connected announcing peer's registry is."""
        with self._lock:
            member = self._members.get(peer_id)
            return member.peer if member is not None and member.connected else None

    def partners(self, now: float) -> dict[str, Peer]:
        """Return the connected peers that share what they are pulling, by id."""
        with self._lock:
            return {
                peer_id: member.peer
                for peer_id, member in self._members.items()
                if member.connected
                and member.shares
                and member.peer is not None
                and member.expires > now
            }

    def goodbyes(self) -> frozenset[str]:
        """Return the peers that left in good order and are not back, the latest MAX_GOODBYES of them."""
        with self._lock:
            return frozenset(self._goodbyes)

    def connected(self) -> list[str]:
        with self._lock:
            return self._present()

    def members(self, now: float) -> list[Member]:
        """Return what is known of every connected peer."""
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
        """Return the number of records held."""
        with self._lock:
            return sum(len(member.keys) + len(member.provided) for member in self._members.values())

    def records(self) -> dict[str, int]:
        """Return the number of records held, by how they came: announced, or provided one by one."""
        with self._lock:
            members = self._members.values()
            return {
                "announced": sum(len(member.keys) for member in members),
                "provided": sum(len(member.provided) for member in members),
            }

    def protocols(self) -> dict[str, int]:
        """Return the number of connected peers by what they speak: announce, or kademlia only."""
        with self._lock:
            announce = [member.announces for member in self._members.values() if member.connected]
            return {"announce": announce.count(True), "kademlia": announce.count(False)}

    def shortest_interval(self) -> float:
        """Return the shortest interval that a connected peer has announced; infinite if none has."""
        with self._lock:
            return min(
                (m.interval for m in self._members.values() if m.connected), default=math.inf
            )

    def next_end(self) -> float:
        """Return when the first connected peer's announcements run out; infinite if none do."""
        with self._lock:
            return min((m.expires for m in self._members.values() if m.connected), default=math.inf)

    def silent(self, now: float) -> list[str]:
        """Return the connected peers whose announcements have run out: they stopped talking but kept the line open."""
        with self._lock:
            return [
                i
                for i, member in self._members.items()
                if member.connected and member.expires <= now
            ]

    # Connections

    def peer_connected(self, peer_id: str, *, place: str = "") -> None:
        """Note that a peer is connected; peers at one `place` share a bound (by default each has its own)."""
        with self._lock:
            member = self._members.setdefault(peer_id, _Member())
            member.connected, member.place = True, place or member.place or peer_id

    def peer_disconnected(self, peer_id: str) -> None:
        """Hide all the peer has told; its announced set is dropped, since it sends it anew when it is back."""
        with self._lock:
            provided = self._members.get(peer_id, _Member())
            self._members[peer_id] = _Member(
                place=provided.place, provided=provided.provided, provided_at=provided.provided_at
            )
        if provided.shares:
            self._changed()

    def peer_left(self, peer_id: str) -> None:
        """Note that a peer said goodbye: it is not lost, until it says hello again.

        A connection alone takes no goodbye back: somebody may reach the peer while it is still leaving.
        """
        with self._lock:
            self._goodbyes[peer_id] = None

    # Announcements (only of a connected peer: a frame may still arrive after the line was given up)

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
        """Note where an announcing peer's registry is and how often it will be heard from (seconds).

        `skew` is by how many seconds its clock is ahead of ours; it `shares` what it is pulling.
        """
        with self._lock:
            if (member := self._connected(peer_id)) is None:
                return
            before = member.shares, member.peer
            member.announces, member.peer, member.interval = True, peer, interval
            member.expires = now + TTL_FACTOR * interval
            member.agent, member.skew, member.shares = agent, skew, shares
            self._goodbyes.pop(peer_id, None)
        if before != (shares, peer):
            self._changed()

    def locate(self, peer_id: str, host: str) -> None:
        """Note at which IP address a connected peer's registry is."""
        with self._lock:
            if (member := self._connected(peer_id)) is None:
                return
            before = member.peer
            member.peer = None if before is None else replace(before, host=host)
            member.provided_at = (
                None if member.provided_at is None else replace(member.provided_at, host=host)
            )
        if member.peer != before:
            self._changed()

    def heard(self, peer_id: str, now: float) -> None:
        """Renew an announcing peer's set: it spoke."""
        with self._lock:
            if (member := self._connected(peer_id)) and member.announces:
                member.expires = now + TTL_FACTOR * member.interval

    def stage(self, peer_id: str, keys: Iterable[bytes], *, first: bool) -> int:
        """Collect a part of a whole set that is being sent; returns how many keys were over the bound."""
        with self._lock:
            if not (member := self._connected(peer_id)):
                return 0
            if first or member.staged is None:
                member.staged, member.is_cut = set(), False
            return self._add(member, member.staged, keys)

    def commit(self, peer_id: str, *, complete: bool) -> None:
        """Put the collected set in place of the old one. `complete`: it is all the peer holds, not the part for us."""
        with self._lock:
            if (member := self._connected(peer_id)) and member.staged is not None:
                member.keys, member.staged, member.complete = member.staged, None, complete
                member.checksum, member.pulled = checksum(member.keys), {}

    def add(self, peer_id: str, keys: Iterable[bytes]) -> int:
        """Add keys to an announcing peer's set; returns how many were over the bound."""
        with self._lock:
            if not (member := self._connected(peer_id)):
                return 0
            fresh = [key for key in dict.fromkeys(keys) if key not in member.keys]
            over = self._add(member, member.keys, fresh)
            member.checksum ^= checksum(fresh[: len(fresh) - over])
            return over

    def remove(self, peer_id: str, keys: Iterable[bytes]) -> None:
        """Take keys out of an announcing peer's set, and its provider records of them too."""
        with self._lock:
            if member := self._connected(peer_id):
                unique = dict.fromkeys(keys)
                gone = [key for key in unique if key in member.keys]
                member.keys.difference_update(gone)
                member.checksum ^= checksum(gone)
                for key in unique:
                    member.provided.pop(key, None)
                    member.pulled.pop(key, None)

    def aged(self, peer_id: str, ages: Iterable[tuple[bytes, int]], now: float) -> None:
        """Note how many seconds ago an announcing peer pulled those of its keys that are tags."""
        with self._lock:
            if member := self._connected(peer_id):
                room = min(self._room(member), MAX_TAGS_PER_PEER - len(member.pulled))
                known = ((key, now - age) for key, age in ages if key in member.keys)
                member.pulled.update(itertools.islice(known, max(0, room)))

    def in_step(self, peer_id: str, *, count: int, check: int) -> bool:
        """Return True if the records held of the peer are what it says it has told, or as many of them as are kept."""
        with self._lock:
            member = self._connected(peer_id)
            if member is None or not member.announces:
                return False
            if member.is_cut and (count > MAX_KEYS_PER_PEER or self._room(member) < count):
                return True
            return len(member.keys) == count and member.checksum == check

    # Standard provider records

    def provide(self, peer_id: str, key: bytes, peer: Peer, *, expires: float) -> bool:
        """Keep one provider record of a peer; False if the peer has too many."""
        with self._lock:
            member = self._members.setdefault(peer_id, _Member())
            is_full = len(member.provided) >= MAX_KEYS_PER_PEER or self._room(member) <= 0
            if key not in member.provided and is_full:
                return False
            member.provided[key] = expires
            member.provided_at = peer
            return True

    def expire(self, now: float) -> None:
        """Drop provider records that have run out, and peers of whom nothing is left to know."""
        with self._lock:
            for member in self._members.values():
                for key in [key for key, expires in member.provided.items() if expires <= now]:
                    del member.provided[key]

    def forget_departed(self, keep: int) -> None:
        """Forget the oldest departed peers beyond `keep`, so that churn costs no memory."""
        with self._lock:
            gone = [i for i, member in self._members.items() if not member.connected]
            for peer_id in gone[: max(0, len(gone) - keep)]:
                del self._members[peer_id]

    def clear(self) -> None:
        with self._lock:
            self._members.clear()
        self._changed()

    def _present(self) -> list[str]:
        """Return the connected peers, but for those that are leaving: somebody may have reached one once more."""
        return [
            i for i, member in self._members.items() if member.connected and i not in self._goodbyes
        ]

    def _room(self, member: _Member) -> int:
        """Return how many more records may be held of a peer.

        Case 1: there is room for all that the peers at its place may have. Case 2: all peers together hold as many as
        may be: then each may still have its part of one half of them, so that those who announce too much do not shut
        out the others.
        """
        members = self._members.values()
        left = MAX_RECORDS - sum(each.size for each in members)
        part = MAX_RECORDS // 2 // max(1, len(members)) - member.size
        at_place = MAX_RECORDS_PER_PLACE - sum(
            each.size for each in members if each.place == member.place
        )
        return min(max(left, part), at_place)

    def _add(self, member: _Member, target: set[bytes], keys: Iterable[bytes]) -> int:
        """Add keys to one of a peer's sets, as many as there is room for, and return how many were left out."""
        room = min(MAX_KEYS_PER_PEER - len(target), self._room(member))
        over = 0
        for key in keys:
            if key in target:
                continue
            if room > 0:
                target.add(key)
                room -= 1
            else:
                over += 1
        member.is_cut = member.is_cut or over > 0
        return over

    def _connected(self, peer_id: str) -> _Member | None:
        member = self._members.get(peer_id)
        return member if member is not None and member.connected else None
