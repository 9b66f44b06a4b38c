"""The passive filter: what failures of real requests to one peer make of its health (Kraken's rule). Pure."""

from __future__ import annotations

import math
from collections import deque


class PassiveCheck:
    """`fails` network errors within `fail_timeout` seconds make a peer unhealthy for that long; a success clears all.

    An answer is no network error, whatever its status. Times are monotonic seconds.
    """

    def __init__(self, *, fails: int, fail_timeout: float) -> None:
        self._fail_timeout = fail_timeout
        self._times: deque[float] = deque(maxlen=fails)
        self._until = -math.inf

    def __repr__(self) -> str:
        return f"<Failures {len(self._times)} of {self._times.maxlen}>"

    def failed(self, now: float) -> None:
        """Note a request that found nobody, or broke, or stalled."""
        self._times.append(now)
        if len(self._times) == self._times.maxlen and now - self._times[0] < self._fail_timeout:
            self._until = now + self._fail_timeout

    def succeeded(self) -> None:
        """Note a request that was answered in full."""
        self._times.clear()
        self._until = -math.inf

    def is_unhealthy(self, now: float) -> bool:
        """Say whether the peer is to be left alone."""
        return now < self._until
