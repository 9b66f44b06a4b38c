"""Whether clients' pulls fail: what they see over the last seconds, from counters that only grow. Pure.

A body that was cut is no failed pull yet: containerd goes on elsewhere, at the same byte. Half of all answers being cut
or errors of ours is more than the death of peers explains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

WINDOW = 30.0
"""Seconds looked back at."""
MIN_ANSWERS = 5
"""Answers in the window without which nothing is said."""
SHARE = 0.5
"""Part of them that are bad when pulls are failing."""
GOOD, BAD = ("hit",), ("cut", "error")
"""Outcomes, as Metrics.pulls counts them; misses are neither: the runtime goes upstream at once."""


class Pulls:
    """The outcomes of the last WINDOW seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()

    def __repr__(self) -> str:
        return f"<Pulls over {len(self._looks)} looks>"

    def failing(self, outcomes: Mapping[str, int], now: float) -> str | None:
        """Take in the counters as they stand; return what is wrong in words, None if nothing is."""
        self._looks.append((now, _sum(outcomes, GOOD), _sum(outcomes, BAD)))
        while len(self._looks) > 1 and self._looks[1][0] <= now - WINDOW:
            self._looks.popleft()
        (_, good_then, bad_then), (_, good_now, bad_now) = self._looks[0], self._looks[-1]
        good, bad = good_now - good_then, bad_now - bad_then
        if good + bad < MIN_ANSWERS or bad < SHARE * (good + bad):
            return None
        return f"{bad} of {good + bad} answers in {WINDOW:.0f} s were cut short or errors"


def _sum(outcomes: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(outcomes.get(name, 0) for name in names)
