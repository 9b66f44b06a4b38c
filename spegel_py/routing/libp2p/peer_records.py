"""The records of one peer: its announced key set, and its standard provider records. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from spegel_py.routing.base import Peer

MAX_KEYS_PER_PEER = 30_000
"""Keys of one peer, announced or provided one by one. 500 large images are about 10,000
keys."""

MAX_TAGS_PER_PEER = 10_000
"""Tags of one peer whose pull time is kept."""

TTL_FACTOR = 2
"""An announcement lives for this many of its sender's intervals (Dragonfly2's rule)."""


@dataclass(slots=True)
class PeerRecords:
    """The state of one peer's announcements.

    Args:
        bound_key: peers with the same key share a bound on their records.
        announces: True if the peer speaks the announce protocol.
        complete: True if `keys` is the peer's whole set, not the part for this node.
        interval: seconds between two announcements.
        expires: monotonic time at which the announced set expires.
        staged: the parts received so far of a new whole set.
        pulled: the monotonic time at which the peer pulled each of its tags.
        provided: the expiry of each standard provider record.
        is_cut: True if the peer announced more keys than are kept: asking for its set again would
            be in vain.
    """

    connected: bool = False
    bound_key: str = ""
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

    @property
    def size(self) -> int:
        """The number of records held of the peer."""
        return len(self.keys) + len(self.staged or ()) + len(self.pulled) + len(self.provided)

    def holder(self, key: bytes, now: float, max_age: float) -> Peer | None:
        """Return the peer if it holds the key, and did not pull the tag too long ago."""
        if not self.connected:
            return None
        if key in self.keys and self.expires > now:
            return self.peer if now - self.pulled.get(key, now) <= max_age else None
        return self.provided_at if self.provided.get(key, 0.0) > now else None

    def heard_ago(self, now: float) -> float | None:
        """Return the seconds since the last announcement, None if the peer does not announce."""
        return now - (self.expires - TTL_FACTOR * self.interval) if self.announces else None

    def is_current(self, now: float) -> bool:
        """Return True if the peer's whole set is held."""
        return self.announces and self.complete and not self.is_cut and self.expires > now

    def renew(self, now: float) -> None:
        """Renew the announced set for TTL_FACTOR intervals."""
        self.expires = now + TTL_FACTOR * self.interval

    # Each of these takes `room`: how many more records may be held of the peer.

    def stage(self, keys: Iterable[bytes], *, room: int) -> int:
        """Collect a part of a new whole set. Return how many keys were over the bound."""
        if self.staged is None:
            self.staged, self.is_cut = set(), False
        return self._add(self.staged, keys, room)

    def commit(self, *, complete: bool) -> None:
        """Replace the set by the collected one."""
        if self.staged is not None:
            self.keys, self.staged, self.complete = self.staged, None, complete
            self.checksum, self.pulled = checksum(self.keys), {}

    def add(self, keys: Iterable[bytes], *, room: int) -> int:
        """Add keys to the set. Return how many were over the bound."""
        fresh = [key for key in dict.fromkeys(keys) if key not in self.keys]
        over = self._add(self.keys, fresh, room)
        self.checksum ^= checksum(fresh[: len(fresh) - over])
        return over

    def remove(self, keys: Iterable[bytes]) -> None:
        """Remove keys from the set, and their provider records too."""
        unique = dict.fromkeys(keys)
        gone = [key for key in unique if key in self.keys]
        self.keys.difference_update(gone)
        self.checksum ^= checksum(gone)
        for key in unique:
            self.provided.pop(key, None)
            self.pulled.pop(key, None)

    def record_ages(self, ages: Iterable[tuple[bytes, int]], now: float, *, room: int) -> None:
        """Record how many seconds ago the peer pulled the tags among its keys."""
        room = min(room, MAX_TAGS_PER_PEER - len(self.pulled))
        known = ((key, now - age) for key, age in ages if key in self.keys)
        self.pulled.update(itertools.islice(known, max(0, room)))

    def in_step(self, *, count: int, check: int, room: int) -> bool:
        """Return True if the set is what the peer has sent, up to the bound."""
        if not self.announces:
            return False
        if self.is_cut and (count > MAX_KEYS_PER_PEER or room < count):
            return True
        return len(self.keys) == count and self.checksum == check

    def provide(self, key: bytes, peer: Peer, *, expires: float, room: int) -> bool:
        """Keep one provider record. Return False if the peer has too many."""
        is_full = len(self.provided) >= MAX_KEYS_PER_PEER or room <= 0
        if key not in self.provided and is_full:
            return False
        self.provided[key] = expires
        self.provided_at = peer
        return True

    def expire(self, now: float) -> None:
        """Drop the provider records that have expired."""
        for key in [key for key, expires in self.provided.items() if expires <= now]:
            del self.provided[key]

    def _add(self, target: set[bytes], keys: Iterable[bytes], room: int) -> int:
        """Add as many keys to a set as there is room for. Return how many were left out."""
        room = min(MAX_KEYS_PER_PEER - len(target), room)
        over = 0
        for key in keys:
            if key in target:
                continue
            if room > 0:
                target.add(key)
                room -= 1
            else:
                over += 1
        self.is_cut = self.is_cut or over > 0
        return over


def checksum(keys: Iterable[bytes]) -> int:
    """Return a checksum that is cheap to update: the XOR of each key's first 8 bytes."""
    total = 0
    for key in keys:
        total ^= int.from_bytes(key[:8], "big")
    return total
