"""What this node counts about the health of its peers: names of ours, Spegel has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spegel_py.telemetry.counts import show

STATES = ("healthy", "suspected", "unhealthy")
"""How a peer can be."""

_LEADS = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120)

Check = Literal["passed", "failed", "void"]
"""How a check ended; void: this node itself stood still meanwhile, so it says nothing about the peer."""


class HealthMetrics:
    """The meters of peers' health, in a node's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._checks = Counter(
            "spegel_health_checks",
            "Active checks of peers, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._peers = Gauge(
            "spegel_health_peers", "Peers by health now.", ["state"], registry=registry
        )
        self._transitions = Counter(
            "spegel_health_transitions",
            "Turns of peers' health, by what it turned to.",
            ["state"],
            registry=registry,
        )
        self._predictions = Counter(
            "spegel_health_predictions",
            "Failures of peers that were predicted and came (true), that did not come (false), and that came without "
            "a prediction (missed).",
            ["outcome"],
            registry=registry,
        )
        self._leads = Histogram(
            "spegel_health_prediction_lead_seconds",
            "How many seconds ahead of the failure a prediction came true.",
            buckets=_LEADS,
            registry=registry,
        )

    def checked(self, outcome: Check) -> None:
        """Count a check."""
        self._checks.labels(outcome).inc()

    def turned(self, state: str) -> None:
        """Count a turn of a peer's health to one of STATES."""
        self._transitions.labels(state).inc()

    def predicted(self, outcome: str, lead: float | None) -> None:
        """Count the end of a prediction, or a failure without one; `outcome` is true, false or missed."""
        self._predictions.labels(outcome).inc()
        if lead is not None:
            self._leads.observe(lead)

    def watch(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Ask how many peers are in each state at every scrape; it must neither block nor raise."""
        show(self._peers, STATES, counts)
