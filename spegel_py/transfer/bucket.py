"""A limit in bytes per second over many senders. Pure: times are passed in."""

from __future__ import annotations

REFILL = 0.05
"""Seconds that one piece takes at the full rate, and for which an idle bucket fills by default.

That is long enough that a sender which sleeps a little too long loses nothing, and short enough
that senders take turns.
"""

MIN_PIECE = 64 * 1024
"""Bytes of the smallest piece, however low the rate: smaller pieces only cost CPU."""


class TokenBucket:
    """Lets `rate` bytes a second through; each sender pays after a piece, and waits as it is told.

    A sender waits until all bytes that were sent before, and its own, are paid for. So many senders
    share the rate evenly. While nobody sends, the bucket fills for `burst` seconds. A rate of 0 is
    no limit.
    """

    def __init__(self, *, rate: float, burst: float = REFILL) -> None:
        self._rate = rate
        self._burst = burst
        self._paid_until = float("-inf")

    def __repr__(self) -> str:
        return f"<TokenBucket {self._rate} B/s, paid until {self._paid_until:.3f}>"

    @property
    def piece(self) -> int:
        """Bytes that may be sent before the next payment."""
        return max(MIN_PIECE, int(self._rate * REFILL))

    def pay(self, count: int, now: float) -> float:
        """Pay for `count` bytes sent by `now`; return the seconds that their sender must wait."""
        if not self._rate:
            return 0.0
        self._paid_until = max(self._paid_until, now - self._burst) + count / self._rate
        return max(0.0, self._paid_until - now)
