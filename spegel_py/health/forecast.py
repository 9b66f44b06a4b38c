"""Whether a peer is getting worse, and when it will fail: trends of request and check costs. Pure.

Each kind of cost (seconds to the first byte, seconds per MiB, the share of errors) has a limit at
which the peer is useless. Costs are averaged over steps of ten seconds and smoothed on a
logarithmic scale (Holt's method). A cost that keeps doubling is a straight line on that scale, so
its future value can be read off.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from spegel_py.health.silence import mean_and_deviation

STEP = 10.0
"""Seconds over which costs are averaged: one active check, or many requests."""

LEVEL, SLOPE = 0.5, 0.3
"""Holt's smoothing factors of level and slope: a change of pace shows after about three steps."""

BASELINE = 0.05
"""Share of the newest step in the peer's usual cost: an average of about three minutes."""

WORSE = math.log(3)
"""Distance above the usual cost from which a trend counts: three times, so that noise is no
trend."""

STEPS, RISES, LOOK_BACK = 6, 3, 4
"""Steps before anything is predicted, and how many of the last LOOK_BACK steps must have risen: a
single jump is no trend."""

RISE = 0.02
"""Least rise of a step, on the logarithmic scale: 2 % above the step before."""

HORIZON = 60.0
"""Seconds ahead for which a prediction is trusted; a farther one is a guess."""

PAUSE = 60.0
"""Seconds without a sample after which a trend starts over."""

COSTS, ENOUGH = 64, 30
"""Costs remembered for Dragonfly's rule, and the least number that gives a useful standard
deviation."""

TIMES_MEAN, DEVIATIONS = 20.0, 3.0
"""Dragonfly's rule: a cost is bad above 20 × the mean, or with ENOUGH costs above the mean + 3
standard deviations."""

LEAST_DEVIATION = 1 / 3
"""Least standard deviation, as a share of the mean: with equal costs the slightest difference would
be bad otherwise."""

BAD_FOR = 30.0
"""Seconds for which one bad cost lowers a peer's weight, unless a better one comes."""


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """A peer will be useless in `lead` seconds, because of `reason`.

    `is_silence` is True if it does not answer any more, so that it may just restart.
    """

    lead: float
    reason: str
    is_silence: bool = False


class CostSeries:
    """One kind of cost of one peer: a lower cost counts as `floor`, the peer fails at `limit`."""

    def __init__(self, *, floor: float, limit: float) -> None:
        self._floor = floor
        self._limit = math.log(limit)
        self._costs: deque[float] = deque(maxlen=COSTS)
        self._bad_until = -math.inf
        self._restart()

    def __repr__(self) -> str:
        level, slope = math.exp(self._level), self._slope
        return f"<CostSeries level={level:.3g} slope={slope:+.2f} of {self._steps} steps>"

    def _restart(self) -> None:
        self._level = self._slope = self._baseline = self._before = 0.0
        self._steps = 0
        self._rises: deque[bool] = deque(maxlen=LOOK_BACK)
        self._began = self._newest = -math.inf
        self._sum, self._count = 0.0, 0

    def add(self, cost: float, now: float) -> None:
        """Record one cost."""
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
        """Return True if the newest cost was far above the usual cost of this peer."""
        return now < self._bad_until

    def crossing(self, now: float) -> float | None:
        """Return the seconds until the cost crosses its limit; None if no crossing is predicted."""
        self._close(now)
        # Case 1: no trend, since there are too few, too old or falling costs.
        if (
            now - self._newest > PAUSE
            or self._steps < STEPS
            or sum(self._rises) < RISES
            or self._slope <= 0
        ):
            return None
        # Case 2: a trend within the peer's usual range.
        if self._level < self._baseline + WORSE:
            return None
        # Case 3: follow the straight line to the limit.
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
        """End the present step if its time is over."""
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
            )  # the plain mean while there are few steps
            self._rises.append(cost > self._before + RISE)
        self._before = cost
        self._steps += 1


class Forecast:
    """The cost trends of one peer. Times are monotonic seconds."""

    def __init__(self, *, check_limit: float, first_byte_limit: float) -> None:
        self._checks = CostSeries(floor=0.02, limit=check_limit)
        self._first_bytes = CostSeries(floor=0.02, limit=first_byte_limit)
        self._paces = CostSeries(floor=0.01, limit=32.0)  # 32 KiB/s, where a transfer is given up
        self._errors = CostSeries(floor=0.01, limit=0.5)

    def __repr__(self) -> str:
        return f"<Forecast checks={self._checks!r} first bytes={self._first_bytes!r}>"

    def checked(self, seconds: float, now: float) -> None:
        """Record the seconds that a passed check took."""
        self._checks.add(seconds, now)

    def answered(self, now: float, *, first_byte: float | None, pace: float | None) -> None:
        """Record a successful request.

        Args:
            first_byte: seconds to the first byte.
            pace: seconds of waiting per MiB of the body.
        """
        self._errors.add(0.0, now)
        if first_byte is not None:
            self._first_bytes.add(first_byte, now)
        if pace is not None:
            self._paces.add(pace, now)

    def failed(self, now: float) -> None:
        """Record a failed request."""
        self._errors.add(1.0, now)

    def is_bad(self, now: float) -> bool:
        """Return True if a cost is far above the peer's usual one (Dragonfly's rule)."""
        return any(series.is_bad(now) for series in (self._checks, self._first_bytes, self._paces))

    def expected_failure(self, now: float) -> ExpectedFailure | None:
        """Return the earliest predicted failure, if any."""
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
        return min(found, key=lambda failure: failure.lead, default=None)
