"""The keys to give up when the index is full: those that only the greediest peers hold. Pure.

Content that is pulled often has many holders, and its key costs hardly more than any other. So the
least useful key is one that a few peers hold alone, and of those peers the ones with the most
records have the weakest claim. A key is ranked by its holder with the fewest records:

1. Keys of departed peers only, which are hidden until these peers return, go first.
2. Then go the keys whose every holder has more records than the peer that needs room, those with
   the greediest holders first.

A peer with few records thus always finds room, whatever others announce; and no key that such a
peer holds is given up for others. Each node gives up other keys, in the order in which they came:
the peers closest to a key are asked when a lookup finds nothing (see `Dht`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from spegel_py.routing.libp2p.holders import HolderIndex

RANKS = 16
"""Ranks between an address without records and the greediest one; departed peers are one rank
more."""


def ranked_holders(claims: Iterable[tuple[int, float]], *, most: float) -> list[int]:
    """Return, for each rank, the bits of all sets of this rank or below.

    Args:
        claims: the bits of sets, each with the number of keys that the peers at its address claim;
            infinite for sets of departed peers.
        most: the largest claim of a connected peer's address.
    """
    levels = [0] * (RANKS + 1)
    for bits, size in claims:
        levels[rank_of(size, most)] |= bits
    for rank in range(1, len(levels)):
        levels[rank] |= levels[rank - 1]
    return levels


def rank_of(size: float, most: float) -> int:
    """Return the rank of an address that claims `size` keys, if the greediest claims `most`."""
    if size == math.inf:
        return RANKS
    return min(RANKS - 1, int(RANKS * size / most)) if most else 0


class Shedding:
    """One pass over the keys of an index: ranks them, then forgets the highest ranks.

    Args:
        levels: see `ranked_holders`; sets that came later are on no level, and protect their keys.
        least: the lowest rank whose keys may be forgotten.
        wanted: how many keys to forget.
    """

    def __init__(self, index: HolderIndex, *, levels: list[int], least: int, wanted: int) -> None:
        self._index = index
        self._levels = levels
        self._least = least
        self._wanted = wanted
        self._unranked = index.keys()[::-1]
        self._ranked: list[list[bytes]] = [[] for _ in levels]
        self.records = 0
        """The number of records forgotten."""

    def step(self, count: int) -> bool:
        """Do a step with `count` keys at most. Return True if there is more to do."""
        if self._unranked:
            for key in self._unranked[-count:]:
                if (rank := self._rank(key)) >= self._least:
                    self._ranked[rank].append(key)
            del self._unranked[-count:]
            return True
        rank = max((rank for rank, keys in enumerate(self._ranked) if keys), default=-1)
        if rank < 0 or self._wanted <= 0:
            return False
        keys, size = self._ranked[rank], min(count, self._wanted)
        for key in keys[:size]:
            if self._rank(key) >= self._least:  # a peer may have announced it since
                self.records += self._index.forget(key)
                self._wanted -= 1
        del keys[:size]
        return True

    def _rank(self, key: bytes) -> int:
        """Return the rank of a key: that of its holder with the fewest records."""
        mask = self._index.mask(key)
        if not mask or mask & ~self._levels[-1]:
            return -1
        for rank, bits in enumerate(self._levels):
            if mask & bits:
                return rank
        return -1
