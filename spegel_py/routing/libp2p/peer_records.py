"""The records of one peer: its announced key set, and its standard provider records. Pure.

The keys themselves are in the index of all peers (see `holders`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p.holders import HolderIndex, KeySet
from spegel_py.routing.libp2p.tag_ages import TagAges
from spegel_py.routing.peer_proofs import PeerKey

MAX_KEYS_PER_PEER = 30_000
"""Keys of one peer, announced or provided one by one. 500 large images are about 10,000
keys."""

TTL_FACTOR = 2
"""An announcement lives for this many of its sender's intervals (Dragonfly2's rule)."""

PROVIDED_TOGETHER = 120.0
"""Seconds within which a peer's provider records form one set. The set expires when its last record
does, so that a record costs one bit and no time of its own."""


@dataclass(slots=True)
class ProvidedSet:
    """The provider records of a peer that came at about the same time.

    `first` and `expires` are the monotonic times at which the first and the last of them expire.
    """

    keys: KeySet
    first: float
    expires: float


@dataclass(slots=True)
class PeerRecords:
    """The state of one peer's announcements.

    Args:
        id: its libp2p peer id.
        bound_key: peers with the same key share a bound on their records.
        announces: True if the peer speaks the announce protocol.
        complete: True if `keys` is the peer's whole set, not the part for this node.
        interval: seconds between two announcements.
        expires: monotonic time at which the announced set expires.
        staged: the parts received so far of a new whole set.
        http_key: the key for HTTP requests to it, None if it told none.
        provided: its standard provider records, those that expire first in front.
    """

    id: str
    index: HolderIndex
    connected: bool = False
    bound_key: str = ""
    peer: Peer | None = None
    announces: bool = False
    complete: bool = False
    interval: float = math.inf
    expires: float = math.inf
    keys: KeySet | None = None
    staged: KeySet | None = None
    pulled: TagAges = field(default_factory=TagAges)
    agent: str = ""
    skew: float | None = None
    shares: bool = False
    floor: int | None = None
    http_key: PeerKey | None = field(default=None, repr=False)
    provided: list[ProvidedSet] = field(default_factory=list)
    provided_at: Peer | None = None

    @property
    def announced_count(self) -> int:
        """The number of keys in the announced set."""
        return self.keys.count if self.keys else 0

    @property
    def provided_count(self) -> int:
        """The number of standard provider records."""
        return sum(each.keys.count for each in self.provided)

    @property
    def size(self) -> int:
        """The number of records held of the peer."""
        return sum(each.count for each in self.sets()) + len(self.pulled)

    @property
    def claim(self) -> int:
        """The number of keys that the peer wants to have held: a set that is sent again is one."""
        staged = self.staged.count if self.staged else 0
        return max(self.announced_count, staged) + self.provided_count

    @property
    def is_cut(self) -> bool:
        """True if the peer has announced more keys than are kept."""
        return self.keys is not None and self.keys.is_cut

    def sets(self) -> Iterator[KeySet]:
        """Yield all its sets in the index."""
        if self.keys:
            yield self.keys
        if self.staged:
            yield self.staged
        for each in self.provided:
            yield each.keys

    def holder(self, mask: int, key: bytes, now: float, max_age: float) -> Peer | None:
        """Return the peer if it holds the key, and did not pull the tag too long ago.

        Args:
            mask: the bits of the sets that hold the key.
        """
        if not self.connected:
            return None
        if self.keys and mask & self.keys.bit and self.expires > now:
            at = self.pulled.get(key) if max_age < math.inf else None
            return self.peer if at is None or now - at <= max_age else None
        if any(mask & each.keys.bit and each.expires > now for each in self.provided):
            return self.provided_at
        return None

    def heard_ago(self, now: float) -> float | None:
        """Return the seconds since the last announcement, None if the peer does not announce."""
        return now - (self.expires - TTL_FACTOR * self.interval) if self.announces else None

    def is_whole(self) -> bool:
        """Return True if the peer's whole set is held, for as long as the announcement lives."""
        return self.announces and self.complete and not self.is_cut

    def renew(self, now: float) -> None:
        """Renew the announced set for TTL_FACTOR intervals."""
        self.expires = now + TTL_FACTOR * self.interval

    # Each of these takes `room`: how many more records may be held of the peer.

    def stage(self, keys: Iterable[bytes], *, room: int) -> int:
        """Collect a part of a new whole set. Return how many keys were refused."""
        if self.staged is None:
            self.staged = self.index.new_set(self.id)
        return self._add(self.staged, keys, room)

    def unstage(self) -> None:
        """Drop the parts received so far of a new whole set."""
        if self.staged is not None:
            self.index.drop(self.staged)
            self.staged = None

    def commit(self, *, complete: bool) -> None:
        """Replace the set by the collected one."""
        if self.staged is not None:
            if self.keys is not None:
                self.index.drop(self.keys)
            self.keys, self.staged, self.complete = self.staged, None, complete
            self.pulled = TagAges()

    def add(self, keys: Iterable[bytes], *, room: int) -> int:
        """Add keys to the set. Return how many were refused."""
        if self.keys is None:
            self.keys = self.index.new_set(self.id)
        return self._add(self.keys, dict.fromkeys(keys), room)

    def remove(self, keys: Iterable[bytes]) -> None:
        """Remove keys from the set, and their provider records too."""
        gone = list(keys)
        self.pulled.remove(gone)
        if self.keys is not None:
            self.index.remove(self.keys, gone)
        for each in self.provided:
            self.index.remove(each.keys, gone)

    def record_ages(self, ages: Iterable[tuple[bytes, int]], now: float, *, room: int) -> None:
        """Record how many seconds ago the peer pulled the tags among its keys."""
        if (held := self.keys) is not None:
            known = ((key, now - age) for key, age in ages if self.index.holds(held, key))
            self.pulled.update(known, room=room)

    def in_step(self, *, count: int, check: int, room: int) -> bool:
        """Return True if the set is what the peer has sent, up to the bound.

        A cut set is in step unless the whole one would fit now: it would be asked for in vain.
        """
        if not self.announces:
            return False
        if self.is_cut and (count > MAX_KEYS_PER_PEER or room < count):
            return True
        held = (self.keys.count, self.keys.checksum) if self.keys else (0, 0)
        return held == (count, check)

    def provide(self, key: bytes, peer: Peer, *, expires: float, room: int) -> bool:
        """Keep one provider record. Return False if the peer has too many."""
        newest = self.provided[-1] if self.provided else None
        if newest is not None and expires - newest.first > PROVIDED_TOGETHER:
            newest = None
        before = next((each for each in self.provided if self.index.holds(each.keys, key)), None)
        is_full = self.provided_count >= MAX_KEYS_PER_PEER or room <= 0
        if before is None and is_full:
            return False
        if newest is None:
            newest = ProvidedSet(self.index.new_set(self.id), expires, expires)
            self.provided.append(newest)
        # Added first, so that the index never forgets a key in between.
        refused = 0 if before is newest else self.index.add(newest.keys, [key], room=1)
        if refused:
            return False
        if before is not None and before is not newest:
            self.index.remove(before.keys, [key])
        newest.expires = max(newest.expires, expires)
        self.provided_at = peer
        return True

    def expire(self, now: float) -> None:
        """Drop the provider records that have expired."""
        for each in self.provided:
            if each.expires <= now:
                self.index.drop(each.keys)
        self.provided = [each for each in self.provided if each.expires > now]

    def drop(self) -> None:
        """Drop all keys of the peer."""
        for each in self.sets():
            self.index.drop(each)
        self.keys, self.staged, self.provided = None, None, []

    def _add(self, target: KeySet, keys: Iterable[bytes], room: int) -> int:
        """Add as many keys to a set as there is room for. Return how many were refused."""
        return self.index.add(target, keys, room=min(MAX_KEYS_PER_PEER - target.count, room))
