"""A limit in bytes per second over many senders; pure, with the time passed in."""

from __future__ import annotations

STEP = 0.05
"""Seconds that one sender's piece takes at the full rate, and for how long the bucket fills while nobody sends: long
enough that a sender which sleeps a little too long loses nothing, short enough that senders take turns."""

SMALLEST = 64 * 1024
"""Bytes of a piece at least, however low the rate: smaller ones only cost CPU."""


class TokenBucket:
    """Lets `rate` bytes a second through. Senders pay after each piece, and wait as long as they are told.

    Each is told to wait until all that was sent before and by itself is paid for, so that many share it evenly.
    While nobody sends, the bucket fills for `burst` seconds. A rate of 0 is no limit.
    """

    def __init__(self, *, rate: float, burst: float = STEP) -> None:
        self._rate = rate
        self._burst = burst
        self._paid_until = float("-inf")

    def __repr__(self) -> str:
        return f"<TokenBucket {self._rate} B/s, paid until {self._paid_until:.3f}>"

    @property
    def piece(self) -> int:
        """How many bytes to send at most before paying."""
        return max(SMALLEST, int(self._rate * STEP))

    def pay(self, count: int, now: float) -> float:
        """Note `count` bytes sent by `now`; return for how many seconds their sender must wait."""
        if not self._rate:
            return 0.0
        self._paid_until = max(self._paid_until, now - self._burst) + count / self._rate
        return max(0.0, self._paid_until - now)
