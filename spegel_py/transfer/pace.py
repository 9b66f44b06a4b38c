"""Telling a slow peer from a dead or a trickling one; pure, fed with bytes and the time waited for them."""

from __future__ import annotations


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
