"""Pauses that double with each failure in a row."""

from __future__ import annotations

_MOST_DOUBLINGS = 63
"""Doublings after which every pause has reached its limit; a float overflows at 1,024."""


def doubled(first: float, count: int, *, most: float) -> float:
    """Return `first` doubled `count` times, but at most `most`."""
    return min(most, first * 2.0 ** min(count, _MOST_DOUBLINGS))


class Backoff:
    """The pauses of one task that is retried: `first` seconds, doubled each time up to `most`."""

    def __init__(self, *, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._count = 0

    def __repr__(self) -> str:
        return f"<Backoff {self._count} pauses>"

    def next(self) -> float:
        """Return the seconds to wait before the next try."""
        pause = doubled(self._first, self._count, most=self._most)
        self._count += 1
        return pause

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self._count = 0
