"""Sees the wall clock being set: it is compared with the monotonic one, which nobody can set. Pure."""

from __future__ import annotations

JUMP = 2.0
"""Seconds of difference between two looks that are a jump: slewing makes less than a millisecond of a second."""


class ClockWatch:
    """Remembers by how much the wall clock was ahead of the monotonic one."""

    def __init__(self, *, wall: float, monotonic: float) -> None:
        self._ahead = wall - monotonic

    def __repr__(self) -> str:
        return f"<ClockWatch ahead={self._ahead:.3f}>"

    def jumped(self, *, wall: float, monotonic: float) -> float | None:
        """Return by how many seconds the wall clock was set since the last look, None if it was not."""
        before, self._ahead = self._ahead, wall - monotonic
        change = self._ahead - before
        return change if abs(change) >= JUMP else None
