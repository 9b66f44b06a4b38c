"""Kraken's two filters of a peer: active (checks) and passive (failed requests). Pure."""

from __future__ import annotations

import math
from collections import deque


class ActiveCheck:
    """Counts checks: up to `passes` for passed ones, down to `-fails` for failed ones.

    One opposite result starts the count over. `passes` checks in a row make the peer healthy,
    `fails` make it unhealthy. A new peer is healthy.
    """

    def __init__(self, *, passes: int = 2, fails: int = 3) -> None:
        self._passes = passes
        self._fails = fails
        self.value = 0
        self.is_healthy = True

    def __repr__(self) -> str:
        return f"<ActiveCheck {self.value:+d} {'healthy' if self.is_healthy else 'unhealthy'}>"

    def record(self, *, passed: bool) -> bool:
        """Record one check. Return True if it turned the peer's health."""
        was = self.is_healthy
        if passed:
            self.value = min(max(self.value + 1, 1), self._passes)
            self.is_healthy = was or self.value == self._passes
        else:
            self.value = max(min(self.value - 1, -1), -self._fails)
            self.is_healthy = was and self.value != -self._fails
        return self.is_healthy != was

    @property
    def factor(self) -> float:
        """The factor for the peer's weight: each failed check in a row takes an equal part."""
        if not self.is_healthy:
            return 0.0
        return 1.0 + min(self.value, 0) / self._fails


class PassiveCheck:
    """Counts network errors of real requests: a response of any HTTP status is none.

    `fails` errors within `fail_timeout` seconds make a peer unhealthy for that long. One success
    clears the count. Times are monotonic seconds.
    """

    def __init__(self, *, fails: int, fail_timeout: float) -> None:
        self._fail_timeout = fail_timeout
        self._times: deque[float] = deque(maxlen=fails)
        self._until = -math.inf

    def __repr__(self) -> str:
        return f"<PassiveCheck {len(self._times)} of {self._times.maxlen}>"

    def failed(self, now: float) -> None:
        """Record a request that found no peer, broke or stalled."""
        self._times.append(now)
        if len(self._times) == self._times.maxlen and now - self._times[0] < self._fail_timeout:
            self._until = now + self._fail_timeout

    def succeeded(self) -> None:
        """Record a request that was answered in full."""
        self._times.clear()
        self._until = -math.inf

    def is_unhealthy(self, now: float) -> bool:
        """Return True while the peer should get no requests."""
        return now < self._until
