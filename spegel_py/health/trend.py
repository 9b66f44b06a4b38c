"""The active filter: what checks of one peer, one after the other, make of its health (Kraken's rule). Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """How many checks in a row turn a peer's health: `passes` to healthy, `fails` to unhealthy."""

    passes: int = 2
    fails: int = 3


class ActiveCheck:
    """Checks that passed count up to `passes`, checks that failed down to `-fails`; one opposite result starts over.

    A peer nothing is known of is healthy. A single failure never makes it unhealthy unless `fails` is 1.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self.value = 0
        self.is_healthy = True

    def __repr__(self) -> str:
        return f"<Trend {self.value:+d} {'healthy' if self.is_healthy else 'unhealthy'}>"

    def record(self, *, passed: bool) -> bool:
        """Take in one check; say whether it turned the health."""
        was = self.is_healthy
        if passed:
            self.value = min(max(self.value + 1, 1), self._thresholds.passes)
            self.is_healthy = was or self.value == self._thresholds.passes
        else:
            self.value = max(min(self.value - 1, -1), -self._thresholds.fails)
            self.is_healthy = was and self.value != -self._thresholds.fails
        return self.is_healthy != was

    @property
    def factor(self) -> float:
        """What the checks leave of the peer's weight: with every failure in a row a further part of it goes."""
        if not self.is_healthy:
            return 0.0
        return 1.0 + min(self.value, 0) / self._thresholds.fails
