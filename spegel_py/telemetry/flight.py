"""What this node counts about sharing what is still being pulled: names of ours, Spegel has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from spegel_py.telemetry.counts import show

ROLES = ("lead", "follow")
"""What a node does with a digest that is in flight."""

REASONS = ("first", "dead", "refused", "short", "stall", "slow", "busy", "loop")
"""Why a node leads: nobody else had it, or its source failed in one of these ways."""


class FlightMetrics:
    """The meters of what is in flight, in a node's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._digests = Gauge(
            "spegel_in_flight_digests",
            "Digests being pulled now that are shared meanwhile, by what this node does: lead or follow.",
            ["role"],
            registry=registry,
        )
        self._leads = Counter(
            "spegel_in_flight_leads",
            "Pulls that this node led, by reason: first, or what was wrong with the source before.",
            ["reason"],
            registry=registry,
        )
        self._bytes = Counter(
            "spegel_in_flight_bytes",
            "Body bytes that peers gave while they were getting them, which did not come from upstream.",
            registry=registry,
        )

    def led(self, reason: str) -> None:
        """Count a pull that this node leads for one of REASONS."""
        self._leads.labels(reason).inc()

    def took(self, count: int) -> None:
        """Count bytes of a source that its coordinator named."""
        self._bytes.inc(count)

    def watch(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Ask how many digests are in each role at every scrape; it must neither block nor raise."""
        show(self._digests, ROLES, counts)
