"""The metrics of replicas; Spegel has none of them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class ReplicaMetrics:
    """The metrics of this node's replicas."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._replicas = Gauge("spegel_replicas", "Images that this node keeps.", registry=registry)
        self._bytes = Gauge(
            "spegel_replica_bytes",
            "Bytes of the images that this node keeps: those that no image of the runtime has too "
            "(alone), and the rest.",
            ["alone"],
            registry=registry,
        )
        self._low = Gauge(
            "spegel_replica_images_low",
            "Images of this node's runtime that have fewer replicas in the cluster than the floor. "
            "Each is counted at one node, the first of those that have it.",
            registry=registry,
        )
        self._held = Counter(
            "spegel_replica_holds",
            "Images that this node began to keep, by outcome.",
            ["reason", "outcome"],
            registry=registry,
        )
        self._released = Counter(
            "spegel_replica_released",
            "Images that this node stopped to keep, by cause.",
            ["why"],
            registry=registry,
        )

    def watch(self, count: Callable[[], int]) -> None:
        """Read the number of replicas at every scrape."""
        self._replicas.set_function(lambda: float(count()))

    def scanned(self, *, alone: int, total: int, low: int) -> None:
        """Show the results of a scan: bytes of replicas, and images below the floor."""
        self._bytes.labels("true").set(alone)
        self._bytes.labels("false").set(total - alone)
        self._low.set(low)

    def held(self, reason: str, *, is_done: bool) -> None:
        """Count an attempt to keep an image."""
        self._held.labels(reason, "kept" if is_done else "incomplete").inc()

    def released(self, why: str) -> None:
        """Count a replica that was released."""
        self._released.labels(why).inc()
