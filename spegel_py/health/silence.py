"""The suspicion that a silent peer is dead: a phi accrual failure detector. Pure.

Phi is -log10 of the probability that a living peer would be silent for so long (Hayashibara et al.,
2004): at phi 1 one suspicion in ten is wrong, at phi 5 one in 100,000. A peer announces its own
heartbeat interval, so only the delay beyond that interval is learnt. Extra heartbeats, which a peer
sends when it has news, therefore do not shorten the expected interval. A longer interval, when the
cluster grows, is expected from the moment it is announced.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

SAMPLES = 64
"""Delays remembered: a few minutes of heartbeats, so that the detector adapts to a slower link."""

LEAST_SPREAD, LEAST_SHARE = 0.5, 0.1
"""Least standard deviation assumed, in seconds and as a share of the interval: a busy core may
delay a peer by two seconds although it was punctual for a minute."""

SUSPECT = 5.0
"""Phi from which a peer is suspected. With an interval of 4 s that is after about 6.1 s; the router
hides the peer after 8 s."""

EASY, GRAVE = 1.0, 8.0
"""Phi up to which a peer keeps its whole weight, and phi from which it keeps only LEAST."""

LEAST = 0.05
"""Share of its weight that a silent peer keeps: it may still answer requests."""


class Heartbeats:
    """The heartbeats of one peer. Times are monotonic seconds, intervals seconds."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=SAMPLES)
        self._last: float | None = None
        self._interval = math.inf
        self._excused = 0.0
        self._mean = self._spread = math.inf

    def __repr__(self) -> str:
        return f"<Heartbeats every {self._interval} s, {len(self._delays)} delays>"

    def heard(self, at: float, interval: float) -> None:
        """Record the peer's latest heartbeat: the next one is announced within `interval`."""
        if self._last is not None and at <= self._last:
            return
        if self._last is not None and not self._excused:
            self._delays.append(min(max(0.0, at - self._last - self._interval), self._interval))
        self._last, self._interval, self._excused = at, interval, 0.0
        late, spread = mean_and_deviation(self._delays)
        self._mean = interval + late
        self._spread = max(spread, LEAST_SPREAD, LEAST_SHARE * interval)

    def stop(self) -> None:
        """Expect no more heartbeats: the peer is pinged instead."""
        self._last = None

    def excuse(self, seconds: float) -> None:
        """Leave out a time in which this node itself stood still and could hear no peer."""
        self._excused += seconds

    def phi(self, now: float) -> float:
        """Return the suspicion of the present silence; 0 for a peer that was never heard."""
        if self._last is None:
            return 0.0
        late = now - self._last - self._excused - self._mean
        probability = 0.5 * math.erfc(late / self._spread / math.sqrt(2))
        return -math.log10(max(probability, 1e-300))

    def left(self, now: float, *, intervals: int = 2) -> float:
        """Return the seconds of silence left until the router counts the peer as gone."""
        return (
            math.inf
            if self._last is None
            else max(0.0, self._last + intervals * self._interval - now)
        )


def factor(phi: float) -> float:
    """Return the weight factor of a suspicion: 1 up to EASY, then evenly less, LEAST from GRAVE."""
    return max(LEAST, min(1.0, 1 - (1 - LEAST) * (phi - EASY) / (GRAVE - EASY)))


def mean_and_deviation(figures: Collection[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation as floats; both are 0 without figures.

    The `statistics` module is exact and takes 20 times as long.
    """
    if not figures:
        return 0.0, 0.0
    mean = sum(figures) / len(figures)
    return mean, math.sqrt(sum((figure - mean) ** 2 for figure in figures) / len(figures))
