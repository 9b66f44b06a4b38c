"""The sets that hold each key: one integer for a key, with one bit for each set. Pure.

A set is one announcement of one peer. It has a *slot*, which is the position of its bit. A key that
many peers hold therefore costs one bit more for each of them:

    key      integer
    9f2c…    …0 0 1 1 0 1     held by the sets in slots 0, 2 and 3
    41d7…    …0 1 0 0 0 0     held by the set in slot 4

A dropped set costs nothing at once: its bits are ignored from then on, and `sweep` clears them a
few keys at a time. A slot is used again only after that.
"""

from __future__ import annotations

from collections.abc import Iterable

from spegel_py.routing.libp2p.keys import HASH_SIZE

MAX_INDEX = 32_000_000
"""Bytes of the keys and bits of all peers: 129,000 different keys with 120 holders. What the
allocator loses comes on top, a half at most: so a node stays below the chart's memory limit."""

KEY_COST = 232
"""Bytes of one key without its bits (measured: 195,000 keys of 120 peers, 48.5 MB)."""

_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))
_LEAST_SWEPT = 64
"""Dropped sets that may wait for a sweep, however few sets there are."""


class KeySet:
    """One set of keys in the index.

    Args:
        owner: the id of the peer that announced it.
        slot: the position of its bit.
        checksum: see `checksum`.
        is_cut: True if keys were refused or shed, so that the peer has announced more.
    """

    __slots__ = ("bit", "checksum", "count", "is_cut", "owner", "slot")

    def __init__(self, owner: str, slot: int) -> None:
        self.owner = owner
        self.slot = slot
        self.bit = 1 << slot
        self.count = 0
        self.checksum = 0
        self.is_cut = False

    def __repr__(self) -> str:
        return f"<KeySet {self.count} keys of {self.owner}>"


class HolderIndex:
    """All keys, with the sets that hold each."""

    def __init__(self) -> None:
        self._holders: dict[bytes, int] = {}
        self._sets: dict[int, KeySet] = {}
        self._used = 0  # the bits of all slots that a set has, or that a sweep must clear
        self._dropped = 0  # the bits that a sweep must clear
        self._sweeping = 0  # the bits that the present sweep clears, from the keys in `_unswept`
        self._unswept: list[bytes] = []

    def __len__(self) -> int:
        return len(self._holders)

    def __repr__(self) -> str:
        return f"<HolderIndex {len(self)} keys in {len(self._sets)} sets>"

    @property
    def capacity(self) -> int:
        """The number of keys that may be held. The more slots there are, the more a key costs."""
        return MAX_INDEX // (KEY_COST + self._used.bit_length() // 8)

    # Sets

    def new_set(self, owner: str) -> KeySet:
        """Return an empty set, in the lowest free slot."""
        while self._dropped.bit_count() > max(_LEAST_SWEPT, len(self._sets)):
            self.sweep(len(self))
        slot = (~self._used & (self._used + 1)).bit_length() - 1
        found = self._sets[slot] = KeySet(owner, slot)
        self._used |= found.bit
        return found

    def drop(self, old: KeySet) -> None:
        """Forget a set: it holds nothing any more."""
        del self._sets[old.slot]
        if old.count:
            self._dropped |= old.bit
        else:
            self._used &= ~old.bit

    def add(self, to: KeySet, keys: Iterable[bytes], *, room: int) -> int:
        """Add keys to a set, `room` new ones at most. Return how many were refused."""
        holders, bit = self._holders, to.bit
        unknown = self.capacity - len(holders)  # keys that are new to the index, and fit
        fresh, refused = [], 0
        for key in keys:
            before = holders.get(key, 0)
            if before & bit:
                continue
            if room <= 0 or not (before or unknown > 0):
                refused += 1
                continue
            room -= 1
            unknown -= not before
            holders[key] = before | bit
            fresh.append(key)
        to.count += len(fresh)
        to.checksum ^= checksum(fresh)
        to.is_cut = to.is_cut or refused > 0
        return refused

    def remove(self, of: KeySet, keys: Iterable[bytes]) -> None:
        """Remove keys from a set."""
        holders, bit = self._holders, of.bit
        gone = []
        for key in keys:
            before = holders.get(key, 0)
            if before & bit:
                _put(holders, key, before & ~bit)
                gone.append(key)
        of.count -= len(gone)
        of.checksum ^= checksum(gone)

    def holds(self, one: KeySet, key: bytes) -> bool:
        """Return True if a set holds a key."""
        return self._holders.get(key, 0) & one.bit != 0

    # Keys

    def mask(self, key: bytes) -> int:
        """Return the bits of the sets that hold a key."""
        return self._holders.get(key, 0) & ~self._dropped

    def at(self, slot: int) -> KeySet:
        """Return the set in a slot."""
        return self._sets[slot]

    def keys(self) -> list[bytes]:
        """Return all keys."""
        return list(self._holders)

    def unknown(self, keys: Iterable[bytes]) -> int:
        """Return how many of the keys no set holds."""
        return len(set(keys) - self._holders.keys())

    def forget(self, key: bytes) -> int:
        """Remove a key from all sets, which are cut then. Return the number of sets."""
        found = slots(self._holders.pop(key, 0) & ~self._dropped)
        for slot in found:
            holder = self._sets[slot]
            holder.count -= 1
            holder.checksum ^= checksum([key])
            holder.is_cut = True
        return len(found)

    def sweep(self, count: int) -> bool:
        """Clear the bits of dropped sets from `count` keys. Return True if there is more to do."""
        if not self._unswept:
            self._sweeping, self._unswept = self._dropped, self.keys() if self._dropped else []
        holders, sweeping = self._holders, self._sweeping
        for key in self._unswept[-count:]:
            before = holders.get(key, 0)
            if before & sweeping:
                _put(holders, key, before & ~sweeping)
        del self._unswept[-count:]
        if not self._unswept:
            self._used &= ~sweeping
            self._dropped &= ~sweeping
            self._sweeping = 0
        return self._dropped != 0


def _put(holders: dict[bytes, int], key: bytes, mask: int) -> None:
    if mask:
        holders[key] = mask
    else:
        del holders[key]


def slots(mask: int) -> list[int]:
    """Return the positions of the bits of a mask."""
    raw = mask.to_bytes((mask.bit_length() + 7) // 8, "little")
    return [8 * place + bit for place, byte in enumerate(raw) if byte for bit in _BITS[byte]]


def checksum(keys: Iterable[bytes]) -> int:
    """Return a checksum that is cheap to update: the XOR of each key's first 8 bytes.

    The keys are halved, and the halves XORed, until one is left: 8,192 keys take 0.1 ms so.
    """
    joined = b"".join(keys)
    while len(joined) > HASH_SIZE:
        half = (len(joined) // HASH_SIZE + 1) // 2 * HASH_SIZE
        left, right = joined[:half], joined[half:].ljust(half, b"\0")
        folded = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
        joined = folded.to_bytes(half, "big")
    return int.from_bytes(joined[:8], "big")
