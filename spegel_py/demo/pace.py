"""Holding a pull to a rate, as a slower network would; pure: time is passed in."""

from __future__ import annotations


class Pace:
    """Says how long to wait after so many bytes, so that on the whole `rate` bytes per second are not exceeded.

    A `rate` of 0 never waits. Time that was not used is not saved up.
    """

    def __init__(self, *, rate: float) -> None:
        self._rate = rate
        self._free = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self._rate} B/s>"

    def delay(self, count: int, now: float) -> float:
        """Return the seconds to wait after `count` more bytes at monotonic time `now`."""
        if not self._rate:
            return 0.0
        self._free = max(self._free, now) + count / self._rate
        return self._free - now
