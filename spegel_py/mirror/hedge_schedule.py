"""When a further peer is asked for the same thing: if the first takes long, or after a failure.

A hedged request (Dean and Barroso, The Tail at Scale, 2013). Its delays are high percentiles of the
times that peers really take, so at most about one request in five is hedged, whatever the cluster's
speed. Pure: times are passed in, as monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

PERCENTILES = (0.80, 0.85, 0.90)
"""Percentiles of the times to headers after which the second, third and fourth peer are asked."""

DEFAULT_DELAY = 0.05
"""Seconds before each further peer while too few times are known: ten times a good LAN peer's."""

MIN_SAMPLES = 20
"""Times needed for percentiles; fewer tell nothing about the slowest tenth."""

MAX_SAMPLES = 256
"""Times that are kept: the last minutes of a busy node."""

MIN_GAP = 0.005
"""Shortest time in seconds between two peers, and before the first hedge.

Below it a second request costs more than it saves, and equal percentiles would ask all at once.
"""


class LatencyWindow:
    """The last times to headers of all peers together, in seconds."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=MAX_SAMPLES)

    def __repr__(self) -> str:
        return f"<LatencyWindow of {len(self._recent)} answers>"

    def observe(self, seconds: float) -> None:
        """Record the time that a peer took to answer."""
        self._recent.append(seconds)

    def observe_unanswered(self, seconds: float) -> None:
        """Record that a peer had not answered after this time, if most answers come earlier.

        Without these times the percentiles would fall with every hedge that wins, since only quick
        answers would be counted.
        """
        if seconds >= self.delays()[0]:
            self.observe(seconds)

    def delays(self) -> Sequence[float]:
        """Return the seconds after which each further peer is asked, in ascending order."""
        if len(self._recent) < MIN_SAMPLES:
            return [DEFAULT_DELAY * (number + 1) for number in range(len(PERCENTILES))]
        ordered, delays = sorted(self._recent), list[float]()
        for percentile in PERCENTILES:
            at = ordered[math.ceil(percentile * len(ordered)) - 1]
            delays.append(max(at, (delays[-1] if delays else 0.0) + MIN_GAP))
        return delays


class HedgeSchedule:
    """Computes when the next peer of one hedged request is due.

    At most one peer more than there are `delays` is asked at a time.
    """

    def __init__(self, *, delays: Sequence[float]) -> None:
        self._delays = delays
        self._began = 0.0  # when the first request under way was sent
        self._hedges = 0  # requests sent since then because of the time alone
        self._due_at_once = 1
        self._under_way = 0

    def __repr__(self) -> str:
        return (
            f"<HedgeSchedule under_way={self._under_way} due_at_once={self._due_at_once} "
            f"hedges={self._hedges}>"
        )

    def due(self) -> float:
        """Return when the next peer is due: -inf is at once, inf is not before a failure."""
        if self._under_way > len(self._delays):
            return math.inf
        if self._due_at_once:
            return -math.inf
        if self._hedges < len(self._delays):
            return self._began + self._delays[self._hedges]
        return math.inf

    def record_request(self, now: float) -> bool:
        """Record that a peer is being asked; return True if that is only because of slow peers."""
        is_hedge = not self._due_at_once
        if is_hedge:
            self._hedges += 1
        else:
            self._due_at_once -= 1
        if not self._under_way:
            self._began, self._hedges = now, 0
        self._under_way += 1
        return is_hedge

    def record_failure(self) -> None:
        """Record that a peer failed: another peer is due at once."""
        self._under_way -= 1
        self._due_at_once += 1
