"""Whether a peer is getting worse, and when it would fail: trends of what requests and checks cost. Pure.

Every kind of cost (seconds to the first byte, seconds per MiB, the share of errors) has a limit beyond which the peer
is of no use. Costs are averaged over steps of ten seconds and smoothed on a logarithmic scale (Holt's method), where a
cost that keeps doubling is a straight line: what it would be later is read off it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from spegel_py.health.deviation import mean_and_deviation

STEP = 10.0
"""Seconds over which costs are averaged: one active check, or many requests, come in it."""

LEVEL, SLOPE = 0.5, 0.3
"""Holt's smoothing of level and slope: a change of pace shows after about three steps."""

BASELINE = 0.05
"""Share of the newest step in what is usual of this peer: the last three minutes or so."""

WORSE = math.log(3)
"""How far above what is usual a cost must be, so that noise is no trend: three times."""

STEPS, RISES, LOOK_BACK = 6, 3, 4
"""Steps before anything is foretold, and how many of the last ones must have risen: a single jump is no trend."""

RISE = 0.02
"""A step that is 2 % above the one before has risen."""

HORIZON = 60.0
"""Seconds ahead that are believed; farther ones are guesses."""

PAUSE = 60.0
"""Seconds without a sample after which a trend starts over."""

COSTS, ENOUGH = 64, 30
"""Costs remembered for Dragonfly's rule, and how many make a standard deviation worth something."""

TIMES_MEAN, DEVIATIONS = 20.0, 3.0
"""Dragonfly's rule: worse than 20 × the mean, or than the mean + 3 standard deviations once there are ENOUGH."""

LEAST_DEVIATION = 1 / 3
"""Of the mean: the deviation of costs that are all alike would make the slightest difference a bad one."""

BAD_FOR = 30.0
"""Seconds for which one bad cost is held against a peer, if no better one comes."""


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """A peer will be of no use in `lead` seconds, by what `reason` says."""

    lead: float
    reason: str


class CostSeries:
    """One kind of cost of one peer; what is below `floor` counts as `floor`, what is above `limit` as a failure."""

    def __init__(self, *, floor: float, limit: float) -> None:
        self._floor = floor
        self._limit = math.log(limit)
        self._costs: deque[float] = deque(maxlen=COSTS)
        self._bad_until = -math.inf
        self._restart()

    def __repr__(self) -> str:
        return f"<Series level={math.exp(self._level):.3g} slope={self._slope:+.2f} of {self._steps} steps>"

    def _restart(self) -> None:
        self._level = self._slope = self._baseline = self._before = 0.0
        self._steps = 0
        self._rises: deque[bool] = deque(maxlen=LOOK_BACK)
        self._began = self._newest = -math.inf
        self._sum, self._count = 0.0, 0

    def add(self, cost: float, now: float) -> None:
        """Take in one cost."""
        cost = max(cost, self._floor)
        self._bad_until = now + BAD_FOR if self._is_outlier(cost) else -math.inf
        self._costs.append(cost)
        if now - self._newest > PAUSE:
            self._restart()
            self._began = now
        self._close(now)
        self._newest = now
        self._sum += cost
        self._count += 1

    def is_bad(self, now: float) -> bool:
        """Say whether the newest cost was far out of what is usual of this peer."""
        return now < self._bad_until

    def crossing(self, now: float) -> float | None:
        """Return in how many seconds the limit will be crossed; None if that is not foreseeable."""
        self._close(now)
        if (
            now - self._newest > PAUSE
            or self._steps < STEPS
            or sum(self._rises) < RISES
            or self._slope <= 0
        ):
            return None
        if self._level < self._baseline + WORSE:
            return None
        lead = (self._limit - self._level) / self._slope * STEP - (now - self._began)
        return max(0.0, lead) if lead <= HORIZON else None

    def _is_outlier(self, cost: float) -> bool:
        if len(self._costs) < 2:
            return False
        mean, deviation = mean_and_deviation(self._costs)
        if len(self._costs) < ENOUGH:
            return cost > TIMES_MEAN * mean
        return cost > mean + DEVIATIONS * max(deviation, LEAST_DEVIATION * mean)

    def _close(self, now: float) -> None:
        """End the step under way if its time is over."""
        if now - self._began < STEP or not self._count:
            return
        self._learn(math.log(self._sum / self._count))
        self._began += STEP * math.floor((now - self._began) / STEP)
        self._sum, self._count = 0.0, 0

    def _learn(self, cost: float) -> None:
        if self._steps == 0:
            self._level = self._baseline = cost
        else:
            before, expected = self._level, self._level + self._slope
            self._level = expected + LEVEL * (cost - expected)
            self._slope += SLOPE * (self._level - before - self._slope)
            self._baseline += max(BASELINE, 1 / (self._steps + 1)) * (
                cost - self._baseline
            )  # first the plain mean
            self._rises.append(cost > self._before + RISE)
        self._before = cost
        self._steps += 1


class Forecast:
    """The trends of one peer. Times are monotonic seconds."""

    def __init__(self, *, check_limit: float, first_byte_limit: float) -> None:
        self._checks = CostSeries(floor=0.02, limit=check_limit)
        self._first_bytes = CostSeries(floor=0.02, limit=first_byte_limit)
        self._paces = CostSeries(floor=0.01, limit=32.0)  # 32 KiB/s, where a transfer is given up
        self._errors = CostSeries(floor=0.01, limit=0.5)

    def __repr__(self) -> str:
        return f"<Forecast checks={self._checks!r} first bytes={self._first_bytes!r}>"

    def checked(self, seconds: float, now: float) -> None:
        """Take in how long a check took that passed."""
        self._checks.add(seconds, now)

    def answered(self, now: float, *, first_byte: float | None, pace: float | None) -> None:
        """Take in a request that went well: seconds to its first byte, and of waiting per MiB of its body."""
        self._errors.add(0.0, now)
        if first_byte is not None:
            self._first_bytes.add(first_byte, now)
        if pace is not None:
            self._paces.add(pace, now)

    def failed(self, now: float) -> None:
        """Take in a request that failed."""
        self._errors.add(1.0, now)

    def is_bad(self, now: float) -> bool:
        """Say whether something about the peer is far out of what is usual of it (Dragonfly's rule)."""
        return any(series.is_bad(now) for series in (self._checks, self._first_bytes, self._paces))

    def outlook(self, now: float) -> ExpectedFailure | None:
        """Return the first failure that is foreseeable."""
        named = (
            (self._checks, "checks take longer and longer"),
            (self._first_bytes, "the first byte takes longer and longer"),
            (self._paces, "bodies come slower and slower"),
            (self._errors, "requests fail more and more often"),
        )
        found = [
            ExpectedFailure(lead, reason)
            for series, reason in named
            if (lead := series.crossing(now)) is not None
        ]
        return min(found, key=lambda outlook: outlook.lead, default=None)
