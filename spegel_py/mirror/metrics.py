"""The metrics of requests to peers, all together and by peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from spegel_py.outcomes import AttemptOutcome, ContentSource, PeerZone
from spegel_py.telemetry.metrics import SECONDS

MAX_PEERS = 64
"""Peers that get a label of their own, the first that are asked. All others share one label."""

KEPT = 120.0
"""Seconds that the series of a lost peer stay after the last request to it. Two scrapes then see
how it ended."""

OTHER = "other"

FAILURES = tuple(outcome for outcome in AttemptOutcome if outcome.is_failure)
"""Outcomes that are shown as 0 from the first request to a peer on. Prometheus sees no increase in
the first value of a series, so nobody would notice the first failure otherwise."""


class MirrorMetrics:
    """The metrics of requests to peers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.peers = PeerMetrics(registry)
        self._resolve = Histogram(
            "spegel_resolve_duration_seconds",
            "Time from the start of a lookup to its first peer; lookups that found nobody are not "
            "in it.",
            ["router"],
            buckets=SECONDS,
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
            "Blobs too large to be held whose bytes were hashed, relayed ones (peer) and our own "
            "(local): ok or wrong.",
            ["source", "outcome"],
            registry=registry,
        )
        self._tags = Counter(
            "spegel_peer_tags",
            "Tags that peers answered: believed (ok), or the reason why not.",
            ["result"],
            registry=registry,
        )
        self._in_flight_bytes = Counter(
            "spegel_in_flight_bytes",
            "Body bytes from peers that were still downloading the content themselves, which did "
            "not come from upstream.",
            registry=registry,
        )
        self._zone_bytes = Counter(
            "spegel_zone_received_bytes",
            "Body bytes from peers in this node's own zone (same), in other zones (other), or "
            "where one of the two names no zone (unknown).",
            ["zone"],
            registry=registry,
        )
        for zone in PeerZone:
            self._zone_bytes.labels(zone)
        self._quarantined = Gauge(
            "spegel_quarantined_peers",
            "Peers that sent wrong bytes, and are asked for nothing now.",
            registry=registry,
        )

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
        zone: PeerZone,
    ) -> None:
        """Count one request to a peer, as PeerMetrics does, and its bytes by the peer's zone."""
        self._attempts.labels(outcome).inc()
        self._zone_bytes.labels(zone).inc(count)
        self.peers.attempted(
            peer_id=peer_id, address=address, outcome=outcome, first_byte=first_byte, count=count
        )

    def received_in_flight(self, count: int) -> None:
        """Count bytes from a peer that was still downloading the content itself."""
        self._in_flight_bytes.inc(count)

    def judged_tag(self, result: str) -> None:
        """Count a tag of a peer by whether it was believed."""
        self._tags.labels(result).inc()

    def hedged(self) -> None:
        """Count a peer that was asked because another peer is slow."""
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

    def watch(self, *, quarantined: Callable[[], float]) -> None:
        """Read the number of quarantined peers at every scrape; it must not block or raise."""
        self._quarantined.set_function(quarantined)


@dataclass(slots=True)
class _Series:
    ids: set[str] = field(default_factory=set)  # an address may come back with another identity
    outcomes: set[AttemptOutcome] = field(default_factory=set)
    asked: float = 0.0


class PeerMetrics:
    """The metrics of each peer; a peer is named by the address of its registry.

    `clock` is monotonic. Not thread-safe: requests end, and scrapes come, on the event loop.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._series: dict[str, _Series] = {}
        self._requests = Counter(
            "spegel_peer_requests",
            "Requests made to a peer, by outcome: ok, or why no complete answer came.",
            ["peer", "outcome"],
            registry=registry,
        )
        self._first_byte = Summary(
            "spegel_peer_first_byte_seconds",
            "Time from a request to a peer to the head of its answer.",
            ["peer"],
            registry=registry,
        )
        self._received = Counter(
            "spegel_peer_received_bytes",
            "Body bytes that a peer sent.",
            ["peer"],
            registry=registry,
        )

    def __repr__(self) -> str:
        return f"<PeerMetrics of {len(self._series)} peers>"

    def attempted(
        self,
        *,
        peer_id: str,
        address: str,
        outcome: AttemptOutcome,
        first_byte: float | None,
        count: int,
    ) -> None:
        """Count a request that has ended after `count` bytes.

        `first_byte` is the time in seconds to the head of the answer, None if no answer came.
        """
        label = self._label(peer_id, address, outcome)
        self._requests.labels(label, outcome).inc()
        self._received.labels(label).inc(count)
        if first_byte is not None:
            self._first_byte.labels(label).observe(first_byte)

    def forget(self, *, but: Collection[str]) -> None:
        """Remove the series of peers that were not asked for KEPT seconds, but for these ids."""
        oldest = self._clock() - KEPT
        gone = [
            label
            for label, series in self._series.items()
            if series.asked <= oldest and series.ids.isdisjoint(but)
        ]
        for label in gone:
            series = self._series.pop(label)
            for outcome in series.outcomes:
                self._requests.remove(label, outcome)
            self._received.remove(label)
            self._first_byte.remove(label)

    def _label(self, peer_id: str, address: str, outcome: AttemptOutcome) -> str:
        series = self._series.get(address)
        if series is None:
            if len(self._series) >= MAX_PEERS:
                return OTHER
            series = self._series[address] = _Series(outcomes=set(FAILURES))
            for failure in FAILURES:
                self._requests.labels(address, failure)
        series.ids.add(peer_id)
        series.outcomes.add(outcome)
        series.asked = self._clock()
        return address
