"""Telling a slow peer from a dead or a trickling one; pure, fed with bytes and the time waited for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

FLOORS = ((10.0, 48 * 1024), (60.0, 64 * 1024), (300.0, 128 * 1024))
"""Seconds of waiting for a peer, and the bytes per second that it must reach from then on.

A trickle that is just above the minimum rate would hold a layer of 500 MB for hours, also where nobody
else has it and the registry is well. Links over which images are pulled are quicker than 1 Mbit/s, the
last of these. The first ones are lower, so that a peer that is busy, or limits what it sends, has time
to get better: a transfer gets 62 KB/s of `--max-upload-rate 1000000` for 16 at a time, and 97 KB/s of
100 Mbit/s with all of `--max-transfers`."""

REST = 60.0
"""Seconds in which the rest of a body may come at any rate: then leaving the peer gains nothing."""


class Pace:
    """Says when a body has come in too slowly over a window of waiting.

    Only the time spent waiting for the peer counts, so a client that reads slowly makes no peer look slow.
    """

    def __init__(self, *, min_rate: int, window: float) -> None:
        self._min_rate = min_rate
        self._window = window
        self._bytes = 0
        self._waited = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self._bytes} bytes in {self._waited:.3f} s>"

    def is_too_slow(self, count: int, waited: float) -> bool:
        """Note `count` bytes that took `waited` seconds; say if the window just ended below the rate."""
        self._bytes += count
        self._waited += waited
        if self._waited < self._window:
            return False
        too_slow = self._bytes < self._min_rate * self._waited
        self._bytes, self._waited = 0, 0.0
        return too_slow


class Floor:
    """Says when a peer is so slow, after so long, that it is better to go elsewhere for the rest of a body.

    The floor rises with the time that the peer was waited for; see FLOORS. It is held against
    stretches of waiting as long as the first of these times, in which pauses and bursts even out.
    """

    def __init__(self, *, floors: Sequence[tuple[float, int]] = FLOORS) -> None:
        self._floors = floors
        self._stretch = floors[0][0] if floors else math.inf
        self._bytes = 0
        self._waited = 0.0
        self._total = 0.0

    def __repr__(self) -> str:
        return f"<Floor {self._bytes} bytes in {self._waited:.3f} of {self._total:.3f} s>"

    def is_too_slow(self, count: int, waited: float, left: int) -> bool:
        """Note `count` bytes that took `waited` seconds, after which `left` bytes are still to come.

        Return True if a stretch of waiting just ended below the floor, and the rest would take long.
        """
        self._bytes += count
        self._waited += waited
        if self._waited < self._stretch:
            return False
        self._total += self._waited
        rate, self._bytes, self._waited = self._bytes / self._waited, 0, 0.0
        least = max((each for seconds, each in self._floors if seconds <= self._total), default=0)
        return rate < least and left > rate * REST
