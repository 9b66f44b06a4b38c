"""Which peers were known lately and which of them are reachable now, so that half a cluster's going is seen. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection

KNOWN_FOR = 600.0
"""Seconds after which a peer that went without a word is no longer expected back: as long as it is dialled."""
MIN_LOST = 2
"""Peers lost for a partition: one alone is a peer that died."""
SHARE = 1 / 3
"""Part of the peers known that is lost in a partition at least."""
MAX_PEERS = 10_000
"""Peers remembered."""


class Census:
    """The peers seen lately; times are monotonic seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._connected: frozenset[str] = frozenset()
        self.has_lost_all = False
        """Whether nobody is left because peers went without a goodbye; until one is back."""

    def __repr__(self) -> str:
        return f"<Census {len(self._connected)} of {len(self._seen)} known are reachable>"

    @property
    def known(self) -> int:
        """The number of peers known lately."""
        return len(self._seen)

    def take(self, *, connected: Collection[str], goodbyes: Collection[str], now: float) -> None:
        """Note who is connected now and who left in good order."""
        self._connected = frozenset(connected)
        for peer in self._connected:
            if peer in self._seen or len(self._seen) < MAX_PEERS:
                self._seen[peer] = now
        old = [peer for peer, at in self._seen.items() if now - at > KNOWN_FOR]
        for peer in {*old, *(frozenset(goodbyes) & self._seen.keys())} - self._connected:
            del self._seen[peer]
        self.has_lost_all = not self._connected and (self.has_lost_all or bool(self._seen))

    def lost(self) -> dict[str, float]:
        """Return the peers that went without a goodbye, with when each was last seen, the first gone first."""
        gone = [(at, peer) for peer, at in self._seen.items() if peer not in self._connected]
        return {peer: at for at, peer in sorted(gone)}

    def partitioned_since(self) -> float | None:
        """Return when so many had gone that it is a partition, None if it is none."""
        needed = max(MIN_LOST, SHARE * len(self._seen))
        times = list(self.lost().values())
        return times[math.ceil(needed) - 1] if len(times) >= needed else None
