"""The metrics of in-flight sharing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from spegel_py.inflight.messages import ParentFault, Role
from spegel_py.telemetry.metrics import show_counts

ROLES = (Role.LEADER.value, Role.FOLLOWER.value)
"""The roles that are shown: those of a node whose runtime is still pulling the digest."""

REASONS = ("first", *(fault.value for fault in ParentFault))
"""Why a node leads: no other node had the content, or its parent failed."""


class InFlightMetrics:
    """The metrics of in-flight sharing; Spegel has none of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._digests = Gauge(
            "spegel_in_flight_digests",
            "Digests that this node is pulling and shares meanwhile, by its role: lead or follow.",
            ["role"],
            registry=registry,
        )
        self._leads = Counter(
            "spegel_in_flight_leads",
            "Pulls that this node led, by reason: first, or what was wrong with its source before.",
            ["reason"],
            registry=registry,
        )

    def led(self, reason: str) -> None:
        """Count a pull that this node leads, for one of REASONS."""
        self._leads.labels(reason).inc()

    def watch(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Read the number of digests in each of ROLES from `counts` at every scrape.

        `counts` must neither block nor raise.
        """
        show_counts(self._digests, ROLES, counts)
