"""The metrics of the health of peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spegel_py.health.peer_health import HealthState
from spegel_py.health.predictions import PredictionOutcome
from spegel_py.telemetry.metrics import show_counts

_LEADS = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120)


class CheckOutcome(StrEnum):
    """How an active check ended."""

    PASSED = "passed"
    FAILED = "failed"
    VOID = "void"
    """This node itself stood still during the check, so it proves nothing about the peer."""


class HealthMetrics:
    """The metrics of the health of peers; Spegel has none of them."""

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
            "Changes of peers' health, by the new state.",
            ["state"],
            registry=registry,
        )
        self._predictions = Counter(
            "spegel_health_predictions",
            "Failures of peers that were predicted and came (true), that did not come (false), "
            "and that came without a prediction (missed).",
            ["outcome"],
            registry=registry,
        )
        self._leads = Histogram(
            "spegel_health_prediction_lead_seconds",
            "Seconds between a prediction and the failure, where the failure came.",
            buckets=_LEADS,
            registry=registry,
        )

    def checked(self, outcome: CheckOutcome) -> None:
        """Count a check."""
        self._checks.labels(outcome).inc()

    def turned(self, state: HealthState) -> None:
        """Count a change of a peer's health to `state`."""
        self._transitions.labels(state.value).inc()

    def predicted(self, outcome: PredictionOutcome, lead: float | None) -> None:
        """Count the end of a prediction, or a failure without one.

        `lead` is the time in seconds from a true prediction to the failure.
        """
        self._predictions.labels(outcome.value).inc()
        if lead is not None:
            self._leads.observe(lead)

    def watch(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Read the number of peers in each state from `counts` at every scrape.

        `counts` must neither block nor raise.
        """
        show_counts(self._peers, [state.value for state in HealthState], counts)
