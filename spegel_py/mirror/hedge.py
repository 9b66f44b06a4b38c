"""When a further peer is asked for the same thing: when the first takes longer than most, and at once after a failure.

Pure: times are passed in, as monotonic seconds. Because the delays are high percentiles of what peers really take,
at most about one request in five is hedged, whatever the cluster's speed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

PERCENTILES = (0.80, 0.85, 0.90)
"""Of the times to headers: when the second, third and fourth peer is asked."""

AT_FIRST = 0.05
"""Seconds before each further peer is asked while too little is known: ten times what a good peer takes in a LAN."""

ENOUGH = 20
"""Times that must have been seen before their percentiles count; fewer say nothing about the slowest tenth."""

RECENT = 256
"""Times that are remembered: of the last minutes on a busy node."""

GAP = 0.005
"""Seconds between two peers at least, and before the first hedge: below that a second request costs more than it
saves, and equal percentiles would ask all at once."""


class Latencies:
    """The last times to headers of all peers together, in seconds."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)

    def __repr__(self) -> str:
        return f"<Latencies of {len(self._recent)} answers>"

    def observe(self, seconds: float) -> None:
        """Take in how long a peer took to answer."""
        self._recent.append(seconds)

    def observe_unanswered(self, seconds: float) -> None:
        """Take in that a peer had not answered by then; it counts if that is later than most answers come.

        Without these the percentiles would fall with every hedge that wins, since only quick answers would be seen.
        """
        if seconds >= self.delays()[0]:
            self.observe(seconds)

    def delays(self) -> Sequence[float]:
        """Return after how many seconds each further peer is asked, in ascending order."""
        if len(self._recent) < ENOUGH:
            return [AT_FIRST * (number + 1) for number in range(len(PERCENTILES))]
        ordered, delays = sorted(self._recent), list[float]()
        for percentile in PERCENTILES:
            at = ordered[math.ceil(percentile * len(ordered)) - 1]
            delays.append(max(at, (delays[-1] if delays else 0.0) + GAP))
        return delays


class Schedule:
    """Says when the next peer of one race is due; it is told of each that is asked, and of each that fails.

    At most one more than there are `delays` are under way at a time.
    """

    def __init__(self, *, delays: Sequence[float]) -> None:
        self._delays = delays
        self._began = 0.0  # when the first of those under way was asked
        self._hedges = 0  # asked since then because of the time alone
        self._owed = 1  # to be asked at once
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<Schedule under_way={self._under_way} owed={self._owed} hedges={self._hedges}>"

    def due(self) -> float:
        """Return when the next peer is to be asked: -inf for at once, inf for not before one fails."""
        if self._under_way > len(self._delays):
            return math.inf
        if self._owed:
            return -math.inf
        return (
            self._began + self._delays[self._hedges]
            if self._hedges < len(self._delays)
            else math.inf
        )

    def asked(self, now: float) -> bool:
        """Note that a peer is being asked; say whether it is a hedge, asked only because the others are slow."""
        is_hedge = not self._owed
        if is_hedge:
            self._hedges += 1
        else:
            self._owed -= 1
        if not self._under_way:
            self._began, self._hedges = now, 0
        self._under_way += 1
        return is_hedge

    def failed(self) -> None:
        """Note that a peer failed: another one is due at once."""
        self._under_way -= 1
        self._owed += 1
