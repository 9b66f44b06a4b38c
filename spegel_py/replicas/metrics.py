"""The metrics of replicas; Spegel has none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spegel_py.replicas.drain_state import DrainCause

REPAIR_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds of a repair: one scan, the grace of a lost node, and more."""


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
        self._hot = Gauge(
            "spegel_replica_images_hot",
            "Images that more nodes than the floor are to keep, because they are pulled often, as "
            "this node sees it.",
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
        self._asked = Counter(
            "spegel_replica_keeps",
            "Requests to other nodes to keep an image, by outcome: kept, taking, or the reason of "
            "the refusal.",
            ["reason", "outcome"],
            registry=registry,
        )
        self._taken = Counter(
            "spegel_replica_takes",
            "Images that this node took from its peers to keep them, by outcome.",
            ["reason", "outcome"],
            registry=registry,
        )
        self._received = Counter(
            "spegel_replica_received_bytes",
            "Bytes that came for images to keep.",
            ["reason", "source"],
            registry=registry,
        )
        self._repair = Histogram(
            "spegel_replica_repair_seconds",
            "Seconds for which an image was below its floor, at the node that speaks for it.",
            buckets=REPAIR_BUCKETS,
            registry=registry,
        )
        self._yielded = Counter(
            "spegel_replica_yield_seconds",
            "Seconds for which images to keep waited for pulls by a runtime.",
            registry=registry,
        )

        self._draining = Gauge(
            "spegel_draining",
            "1 while this node drains, by cause: its replicas do not count, and its only copies go "
            "to other nodes.",
            ["cause"],
            registry=registry,
        )
        self.draining(())

    def draining(self, causes: Iterable[str]) -> None:
        """Show the causes for which this node drains."""
        given = frozenset(causes)
        for cause in DrainCause:
            self._draining.labels(cause.value).set(cause.value in given)

    def watch(self, count: Callable[[], int]) -> None:
        """Read the number of replicas at every scrape."""
        self._replicas.set_function(lambda: float(count()))

    def scanned(self, *, alone: int, total: int, low: int, hot: int) -> None:
        """Show the results of a scan: bytes of replicas, images below the floor, and hot ones."""
        self._bytes.labels("true").set(alone)
        self._bytes.labels("false").set(total - alone)
        self._low.set(low)
        self._hot.set(hot)

    def held(self, reason: str, *, is_done: bool) -> None:
        """Count an attempt to keep an image."""
        self._held.labels(reason, "kept" if is_done else "incomplete").inc()

    def asked(self, reason: str, outcome: str) -> None:
        """Count a request to another node."""
        self._asked.labels(reason, outcome).inc()

    def taken(self, reason: str, outcome: str, *, received: int, upstream: int = 0) -> None:
        """Count an image that was taken, or was not, and the bytes that came."""
        self._taken.labels(reason, outcome).inc()
        self._received.labels(reason, "peer").inc(received - upstream)
        self._received.labels(reason, "upstream").inc(upstream)

    def repaired(self, seconds: float) -> None:
        """Record an image that has its floor again."""
        self._repair.observe(seconds)

    def yielded(self, seconds: float) -> None:
        """Count the time for which a take waited."""
        self._yielded.inc(seconds)

    def released(self, why: str) -> None:
        """Count a replica that was released."""
        self._released.labels(why).inc()
