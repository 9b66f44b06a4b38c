"""What this node counts, in a registry of its own: Spegel's names where Spegel has one, ours for the rest.

Every label has few values: a registry is named only when it was valid, and at most MAX_REGISTRIES of them.
"""

from __future__ import annotations

from collections import Counter as TagCounter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from spegel_py.outcomes import AttemptOutcome, ContentSource, MissReason
from spegel_py.telemetry.flight import FlightMetrics
from spegel_py.telemetry.health import HealthMetrics
from spegel_py.telemetry.peers import PeerMetrics
from spegel_py.telemetry.pull_record import PullRecord
from spegel_py.telemetry.routing import RoutingMetrics

Limit = Literal["peer", "overall", "in_flight"]
"""What a transfer to another node was refused for."""

MAX_REGISTRIES = 100
"""Registries that get a label of their own; a client can invent more, and they are counted as `other`."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BYTES = tuple(10.0**power for power in range(2, 11))
_HTTP = ("handler", "method", "code")


class Metrics:
    """The meters of one node. Not thread-safe beyond what prometheus-client gives; made once, by the node."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._registries: set[str] = set()
        self.pulls: TagCounter[str] = TagCounter()
        """What came of clients' pulls: hit, and the reasons of misses."""
        self.answers: TagCounter[str] = TagCounter()
        """Clients' pulls by where they were answered from in full: local, peer, or none."""
        self.client_bytes: TagCounter[str] = TagCounter()
        """Body bytes that clients were sent, and did not ask the registry for, by where they came from."""
        self.sent_bytes = 0
        """Body bytes sent, to clients and to peers."""

        self._requests = Counter(
            "spegel_mirror_requests",
            "Pulls by this node's clients (not by peers): hit if answered in full from here or from a peer.",
            ["registry", "cache"],
            registry=registry,
        )
        self._misses = Counter(
            "spegel_mirror_misses",
            "Pulls that were no hit, by reason.",
            ["reason"],
            registry=registry,
        )
        self._answers = Counter(
            "spegel_mirror_answers",
            "Pulls by this node's clients, by where they were answered from in full: local, peer, or none.",
            ["source"],
            registry=registry,
        )
        self._client_bytes = Counter(
            "spegel_mirror_bytes",
            "Body bytes sent to this node's clients, which did not come from upstream, by source: local or peer.",
            ["source"],
            registry=registry,
        )
        for reason in MissReason:
            self._misses.labels(
                reason
            )  # as 0, so that Prometheus sees the first of each as an increase
        self._last_success = Gauge(
            "spegel_mirror_last_success_timestamp_seconds",
            "When a pull was last answered in full from a peer, Unix time.",
            registry=registry,
        )
        self._resolve = Histogram(
            "spegel_resolve_duration_seconds",
            "Time from the start of a lookup to its first peer; lookups that found nobody are not in it.",
            ["router"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.advertised_tags = Gauge(
            "spegel_advertised_image_tags", "Tags advertised.", ["registry"], registry=registry
        )
        self.advertised_content = Gauge(
            "spegel_advertised_content_digests",
            "Content digests advertised.",
            ["registry"],
            registry=registry,
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Time from a request's head to the last byte of its answer.",
            _HTTP,
            buckets=_SECONDS,
            registry=registry,
        )
        self._size = Histogram(
            "http_response_size_bytes",
            "Bytes of answers' bodies.",
            _HTTP,
            buckets=_BYTES,
            registry=registry,
        )
        self._inflight = Gauge(
            "http_requests_inflight", "Requests being answered.", ["handler"], registry=registry
        )
        self._bytes = Counter(
            "spegel_served_bytes",
            "Body bytes sent, by where they came from.",
            ["source"],
            registry=registry,
        )
        self._attempts = Counter(
            "spegel_peer_attempts",
            "Requests made to peers, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._hedges = Counter(
            "spegel_mirror_hedges",
            "Further peers asked only because the others were slow.",
            registry=registry,
        )
        self._resumes = Counter(
            "spegel_mirror_resumes",
            "Bodies that went on from another peer where one broke.",
            registry=registry,
        )
        self._spreads = Counter(
            "spegel_mirror_spreads",
            "Bodies that were fetched from several peers at once.",
            registry=registry,
        )
        self._verified = Counter(
            "spegel_verified_blobs",
            "Blobs too large to be held whose bytes were hashed, relayed ones (peer) and our own (local): ok or wrong.",
            ["source", "outcome"],
            registry=registry,
        )
        self.transfers = Gauge(
            "spegel_peer_transfers", "Blobs being sent to other nodes now.", registry=registry
        )
        self._refused = Counter(
            "spegel_peer_transfers_refused",
            "Blobs that other nodes were told to get elsewhere (503), by the limit that was reached: peer, overall or "
            "in_flight.",
            ["limit"],
            registry=registry,
        )
        self._peers = Gauge("spegel_connected_peers", "Peers connected now.", registry=registry)
        self._quarantined = Gauge(
            "spegel_quarantined_peers",
            "Peers that sent wrong bytes, and are asked for nothing now.",
            registry=registry,
        )
        self._records = Gauge(
            "spegel_records_held",
            "Records of who holds what that this node holds now.",
            registry=registry,
        )

        self._queues = Gauge(
            "spegel_queue_length",
            "Work taken up and not finished: keys to be told (advertise), bodies that are moved from files (send) and "
            "from peers (relay).",
            ["queue"],
            registry=registry,
        )
        self._image_digests = Gauge(
            "spegel_advertised_image_digests",
            "Images advertised, by a tag or by a digest in place of one.",
            ["registry"],
            registry=registry,
        )
        self._connected: Callable[[], Collection[str]] = tuple
        self._images: Callable[[], Collection[str]] = tuple

        self.health = HealthMetrics(registry)
        self.peers = PeerMetrics(registry)
        self.routing = RoutingMetrics(registry)
        self.flight = FlightMetrics(registry)

    def label(self, registry: str | None) -> str:
        """Return the label value for a valid registry: itself, `none`, or `other` beyond MAX_REGISTRIES."""
        if registry is None:
            return "none"
        if registry not in self._registries:
            if len(self._registries) >= MAX_REGISTRIES:
                return "other"
            self._registries.add(registry)
        return registry

    def decided(self, record: PullRecord, *, at: float) -> None:
        """Count a client's pull that is over; `at` is Unix time."""
        source = record.source if record.is_hit else ContentSource.NONE
        self.pulls[record.reason or "hit"] += 1
        self.answers[source] += 1
        self._requests.labels(self.label(record.registry), "hit" if record.is_hit else "miss").inc()
        self._answers.labels(source).inc()
        if record.reason is not None:
            self._misses.labels(record.reason).inc()
        if record.source is not ContentSource.NONE:
            self.client_bytes[record.source] += record.sent
            self._client_bytes.labels(record.source).inc(record.sent)
        if source is ContentSource.PEER:
            self._last_success.set(at)

    def summary(self) -> dict[str, object]:
        """Return what became of clients' pulls since the start; `hit_rate` is of all of them, null before the first."""
        total = self.answers.total()
        return {
            "total": total,
            "hit_rate": round((total - self.answers["none"]) / total, 4) if total else None,
            "answers": {source.value: self.answers[source] for source in ContentSource},
            "bytes": {
                source.value: self.client_bytes[source]
                for source in (ContentSource.LOCAL, ContentSource.PEER)
            },
            "misses": {
                str(reason): count for reason, count in self.pulls.items() if reason != "hit"
            },
        }

    def sent(self, source: ContentSource, count: int) -> None:
        """Count body bytes sent, to clients and to peers."""
        self.sent_bytes += count
        self._bytes.labels(source).inc(count)

    def resolved(self, router: str, seconds: float) -> None:
        """Count a lookup that found its first peer."""
        self._resolve.labels(router).observe(seconds)

    def attempted(
        self,
        outcome: AttemptOutcome,
        *,
        peer_id: str,
        address: str,
        first_byte: float | None,
        count: int,
    ) -> None:
        """Count one request to a peer, as PeerMetrics does."""
        self._attempts.labels(outcome).inc()
        self.peers.attempted(
            peer_id=peer_id, address=address, outcome=outcome, first_byte=first_byte, count=count
        )

    def hedged(self) -> None:
        """Count a peer that was asked because another one is slow."""
        self._hedges.inc()

    def resumed(self) -> None:
        """Count a body that goes on from another peer."""
        self._resumes.inc()

    def spread(self) -> None:
        """Count a body that is fetched from several peers at once from now on."""
        self._spreads.inc()

    def verified(self, source: ContentSource, *, is_right: bool) -> None:
        """Count a large blob that was hashed."""
        self._verified.labels(source, "ok" if is_right else "wrong").inc()

    def refused(self, limit: Limit) -> None:
        """Count a transfer to another node that was refused."""
        self._refused.labels(limit).inc()

    def advertised(self, keys: Collection[str]) -> None:
        """Show what is advertised now: tags by registry, content by its digest (which belongs to no registry)."""
        tags = TagCounter(self.label(key.partition("/")[0]) for key in keys if "/" in key)
        self.advertised_tags.clear()
        for registry, count in tags.items():
            self.advertised_tags.labels(registry).set(count)
        self.advertised_content.labels("").set(len(keys) - tags.total())

    def answered(self, *, handler: str, method: str, code: int, seconds: float, size: int) -> None:
        """Count one HTTP answer; the method is one of GET, HEAD and other."""
        labels = (handler, method if method in ("GET", "HEAD") else "other", str(code))
        self._duration.labels(*labels).observe(seconds)
        self._size.labels(*labels).observe(size)

    @contextmanager
    def inflight(self, handler: str) -> Iterator[None]:
        """Count a request as being answered while the context is open."""
        gauge = self._inflight.labels(handler)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def watch(
        self,
        *,
        connected_peers: Callable[[], Collection[str]],
        records_held: Callable[[], float],
        quarantined_peers: Callable[[], float],
        queues: Mapping[str, Callable[[], float]],
        images: Callable[[], Collection[str]],
    ) -> None:
        """Ask these callables at every scrape, on the event loop: they must neither block nor raise.

        Given are the ids of the peers, and the names of all images that are advertised.
        """
        self._connected, self._images = connected_peers, images
        self._peers.set_function(lambda: float(len(connected_peers())))
        self._records.set_function(records_held)
        self._quarantined.set_function(quarantined_peers)
        for queue, length in queues.items():
            self._queues.labels(queue).set_function(length)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics or Prometheus text, by Accept."""
        self.peers.forget(but=self._connected())
        self._image_digests.clear()
        registries = (name.partition("/")[0] for name in self._images())
        for registry, count in TagCounter(map(self.label, registries)).items():
            self._image_digests.labels(registry).set(count)
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
