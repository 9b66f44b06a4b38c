"""Minimum rates of a body, measured in bytes per second of waiting for the peer. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

FLOORS = ((10.0, 48 * 1024), (60.0, 64 * 1024), (300.0, 128 * 1024))
"""Seconds of waiting for a peer, and the bytes per second that it must send from then on.

A trickle just above the minimum rate would hold a layer of 500 MB for hours, even where no other
peer has it and the registry is well. Links over which images are pulled are faster than 1 Mbit/s,
the last of these rates. The first rates are lower, so that a peer that is busy, or limits its
uploads, has time to get better: a transfer gets 62 KB/s of `--max-upload-rate 1000000` for 16 at a
time, and 97 KB/s of 100 Mbit/s with all of `--max-transfers`.
"""

FREE_REST = 60.0
"""Seconds in which the rest of a body may come at any rate: leaving the peer then gains nothing."""


class RateWindow:
    """Decides whether a body came in below `min_rate` bytes per second, window by window.

    Only the time spent waiting for the peer counts, so a client that reads slowly makes no peer
    look slow.
    """

    def __init__(self, *, min_rate: int, window: float) -> None:
        self._min_rate = min_rate
        self._window = window
        self._bytes = 0
        self._waited = 0.0

    def __repr__(self) -> str:
        return f"<RateWindow {self._bytes} bytes in {self._waited:.3f} s>"

    def is_too_slow(self, count: int, waited: float) -> bool:
        """Add `count` bytes that took `waited` seconds; return True if a window ended too slow."""
        self._bytes += count
        self._waited += waited
        if self._waited < self._window:
            return False
        too_slow = self._bytes < self._min_rate * self._waited
        self._bytes, self._waited = 0, 0.0
        return too_slow


class RateFloor:
    """Decides whether a peer has been so slow for so long that the rest should come from elsewhere.

    The floor rises with the time that the peer was waited for; see FLOORS. The rate is measured
    over stretches of waiting as long as the first of FLOORS, in which pauses and bursts even out.
    """

    def __init__(self, *, floors: Sequence[tuple[float, int]] = FLOORS) -> None:
        self._floors = floors
        self._stretch = floors[0][0] if floors else math.inf
        self._bytes = 0
        self._waited = 0.0
        self._total = 0.0

    def __repr__(self) -> str:
        return f"<RateFloor {self._bytes} bytes in {self._waited:.3f} of {self._total:.3f} s>"

    def is_too_slow(self, count: int, waited: float, left: int) -> bool:
        """Add `count` bytes that took `waited` seconds, with `left` bytes still to come.

        Return True if a stretch of waiting ended below the floor, and the rest would take long.
        """
        self._bytes += count
        self._waited += waited
        if self._waited < self._stretch:
            return False
        self._total += self._waited
        rate, self._bytes, self._waited = self._bytes / self._waited, 0, 0.0
        least = max((each for seconds, each in self._floors if seconds <= self._total), default=0)
        return rate < least and left > rate * FREE_REST
