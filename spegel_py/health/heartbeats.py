"""The suspicion that a peer is dead, growing with its silence: a phi accrual failure detector. Pure.

Phi is -log10 of the probability that a living peer would be silent for so long (Hayashibara et al., 2004): at 1 one
suspicion in ten would be wrong, at 5 one in 100,000. A peer says itself how often it will be heard from, so what is
learnt is only how late its words come: extra ones, when it has news, do not shorten what is expected of it, and another
interval, when the cluster grows, is expected from the moment it is announced.
"""

from __future__ import annotations

import math
from collections import deque

from spegel_py.health.deviation import mean_and_deviation

SAMPLES = 64
"""Delays remembered: a few minutes of heartbeats, so that a link that turns slow is believed."""

LEAST_SPREAD, LEAST_SHARE = 0.5, 0.1
"""The standard deviation assumed at least, in seconds and as a share of the interval: a peer that was punctual for a
minute may still be held up for two seconds by a busy core."""

SUSPECT = 5.0
"""Phi from which a peer counts as suspected: with an interval of 4 s, after about 6.1 s, while it would be hidden
after 8 s."""

EASY, GRAVE = 1.0, 8.0
"""Phi up to which nothing is held against a peer, and from which the least weight is left to it."""

LEAST = 0.05
"""The share of its weight that silence alone leaves to a peer: it may still answer requests."""


class Heartbeats:
    """When one peer was heard from. Times are monotonic seconds, intervals seconds."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=SAMPLES)
        self._last: float | None = None
        self._interval = math.inf
        self._excused = 0.0
        self._mean = self._spread = math.inf

    def __repr__(self) -> str:
        return f"<Heartbeats every {self._interval} s, {len(self._delays)} delays>"

    def heard(self, at: float, interval: float) -> None:
        """Note that the peer spoke last at that time, and announces to speak again within `interval`."""
        if self._last is not None and at <= self._last:
            return
        if self._last is not None and not self._excused:
            self._delays.append(min(max(0.0, at - self._last - self._interval), self._interval))
        self._last, self._interval, self._excused = at, interval, 0.0
        late, spread = mean_and_deviation(self._delays)
        self._mean = interval + late
        self._spread = max(spread, LEAST_SPREAD, LEAST_SHARE * interval)

    def excuse(self, seconds: float) -> None:
        """Leave out a stretch in which this node itself stood still and could hear nobody."""
        self._excused += seconds

    def phi(self, now: float) -> float:
        """Return how improbable the present silence is, as -log10; 0 of a peer that has never spoken."""
        if self._last is None:
            return 0.0
        late = now - self._last - self._excused - self._mean
        probability = 0.5 * math.erfc(late / self._spread / math.sqrt(2))
        return -math.log10(max(probability, 1e-300))

    def left(self, now: float, *, intervals: int = 2) -> float:
        """Return for how many more seconds the peer may be silent before it counts as gone."""
        return (
            math.inf
            if self._last is None
            else max(0.0, self._last + intervals * self._interval - now)
        )


def factor(phi: float) -> float:
    """Return what a suspicion leaves of a peer's weight: all up to EASY, then evenly less, LEAST from GRAVE on."""
    return max(LEAST, min(1.0, 1 - (1 - LEAST) * (phi - EASY) / (GRAVE - EASY)))
