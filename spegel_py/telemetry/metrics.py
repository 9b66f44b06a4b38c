"""The metrics of pulls, and what the metrics of all rooms share.

The metrics of a room stand in its own module `metrics`; `spegel_py.metrics` puts them together.
A metric has Spegel's name if Spegel has the metric. Every label has few values.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from spegel_py.oci.distribution import PullClient
from spegel_py.outcomes import ContentSource, MissReason
from spegel_py.telemetry.pull_record import PullRecord

MAX_REGISTRIES = 100
"""Registries that get a label of their own. A client can invent more: they are counted as
`other`."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""The buckets of all histograms of durations."""


def show_counts(
    gauge: Gauge, kinds: Iterable[str], counts: Callable[[], Mapping[str, int]]
) -> None:
    """Let a gauge with one label show the count of each kind, 0 for a kind that is missing.

    `counts` is called at every scrape, and must neither block nor raise.
    """
    for kind in kinds:
        gauge.labels(kind).set_function(partial(_count, counts, kind))


def _count(counts: Callable[[], Mapping[str, int]], kind: str) -> float:
    return float(counts().get(kind, 0))


class RegistryLabels:
    """The values of the label `registry`: at most MAX_REGISTRIES names."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def of(self, registry: str | None) -> str:
        """Return the label of a valid registry: its name, `none`, or `other`."""
        if registry is None:
            return "none"
        if registry not in self._names:
            if len(self._names) >= MAX_REGISTRIES:
                return "other"
            self._names.add(registry)
        return registry


class PullMetrics:
    """The metrics of the pulls by this node's runtimes. Pulls by peers are not counted here.

    Pulls by people, with `spegel-py measure` or `pull`, have a metric of their own.
    """

    def __init__(self, registry: CollectorRegistry, labels: RegistryLabels) -> None:
        self._labels = labels
        self.outcomes: Tally[str] = Tally()
        """The number of pulls by outcome: `hit`, or the reason of a miss."""
        self.answers: Tally[ContentSource] = Tally()
        """The number of pulls by the source of a complete answer; NONE for all others."""
        self._sent: Tally[ContentSource] = Tally()
        self._measured = 0
        self._measured_bytes = 0
        self._requests = Counter(
            "spegel_mirror_requests",
            "Requests by this node's runtimes (not by peers, measure or pull): hit if answered in "
            "full from here or from a peer.",
            ["registry", "cache"],
            registry=registry,
        )
        self._misses = Counter(
            "spegel_mirror_misses",
            "Requests by this node's runtimes that were no hit, by reason.",
            ["reason"],
            registry=registry,
        )
        self._answers = Counter(
            "spegel_mirror_answers",
            "Requests by this node's runtimes, by the source of a complete answer: local, peer, or "
            "none.",
            ["source"],
            registry=registry,
        )
        self._bytes = Counter(
            "spegel_mirror_bytes",
            "Body bytes sent to this node's runtimes, which did not come from upstream, by source: "
            "local or peer.",
            ["source"],
            registry=registry,
        )
        self._measurements = Counter(
            "spegel_measured_requests",
            "Requests by people, with spegel-py measure or pull, by the source of a complete "
            "answer: local, peer, or none. No other metric of pulls counts them.",
            ["source"],
            registry=registry,
        )
        self._last_success = Gauge(
            "spegel_mirror_last_success_timestamp_seconds",
            "When a pull was last answered in full from a peer, Unix time.",
            registry=registry,
        )
        for each in ContentSource:
            self._measurements.labels(each)
        for reason in set(MissReason) - {MissReason.CHALLENGED}:
            # A counter that starts at 0 lets Prometheus see the first miss as an increase.
            self._misses.labels(reason)

    def decided(self, record: PullRecord, *, at: float) -> None:
        """Count a pull that is over; `at` is Unix time."""
        source = record.source if record.is_hit else ContentSource.NONE
        if record.client.is_node:
            return  # counted as replicas
        if record.client is not PullClient.RUNTIME:
            self._measurements.labels(source).inc()
            self._measured += 1
            self._measured_bytes += record.sent
            return
        if record.reason is MissReason.CHALLENGED:
            return  # the client comes again with credentials: counted as spegel_private_verdicts
        self.outcomes[record.reason or "hit"] += 1
        self.answers[source] += 1
        cache = "hit" if record.is_hit else "miss"
        self._requests.labels(self._labels.of(record.registry), cache).inc()
        self._answers.labels(source).inc()
        if record.reason is not None:
            self._misses.labels(record.reason).inc()
        if record.source is not ContentSource.NONE:
            self._sent[record.source] += record.sent
            self._bytes.labels(record.source).inc(record.sent)
        if source is ContentSource.PEER:
            self._last_success.set(at)

    def summary(self) -> dict[str, object]:
        """Return the outcomes of all runtimes' requests since the start, as JSON.

        `hit_rate` is the share of requests that were hits, null before the first request.
        `measured` counts the requests by people, which nothing else counts.
        """
        total = self.answers.total()
        hits = total - self.answers[ContentSource.NONE]
        return {
            "total": total,
            "hit_rate": round(hits / total, 4) if total else None,
            "answers": {source.value: self.answers[source] for source in ContentSource},
            "bytes": {
                source.value: self._sent[source]
                for source in (ContentSource.LOCAL, ContentSource.PEER)
            },
            "measured": {"total": self._measured, "bytes": self._measured_bytes},
            "misses": {str(why): count for why, count in self.outcomes.items() if why != "hit"},
        }
