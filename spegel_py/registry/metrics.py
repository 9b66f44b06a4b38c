"""The metrics of the HTTP server: requests, body bytes sent, transfers to other nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spegel_py.outcomes import ContentSource
from spegel_py.telemetry.metrics import SECONDS

_BYTES = tuple(10.0**power for power in range(2, 11))
_HTTP = ("handler", "method", "code")


class TransferLimit(StrEnum):
    """The limit by which a transfer to another node was refused."""

    PEER = "peer"
    """Transfers to one address."""
    OVERALL = "overall"
    """Transfers to all addresses."""
    IN_FLIGHT = "in_flight"
    """Transfers of content that this node is still downloading."""


class ServerMetrics:
    """The metrics of the HTTP server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent_bytes = 0
        """Body bytes sent, to clients and to peers."""
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Time from a request's head to the last byte of its answer.",
            _HTTP,
            buckets=SECONDS,
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
        self.transfers = Gauge(
            "spegel_peer_transfers", "Blobs being sent to other nodes now.", registry=registry
        )
        self._verdicts = Counter(
            "spegel_private_verdicts",
            "Requests by this node's runtime for private images, by the outcome: challenged (it "
            "brought no credentials), allowed, remembered (allowed without a request to the "
            "registry), denied, unknown (the registry does not give this content), away_allowed "
            "and away_denied (the registry does not answer).",
            ["outcome"],
            registry=registry,
        )
        self._refused = Counter(
            "spegel_peer_transfers_refused",
            "Blobs that other nodes were told to get elsewhere (503), by the limit that was "
            "reached: peer, overall or in_flight.",
            ["limit"],
            registry=registry,
        )

    def answered(self, *, handler: str, method: str, code: int, seconds: float, size: int) -> None:
        """Count one HTTP answer; methods other than GET and HEAD are counted as `other`."""
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

    def sent(self, source: ContentSource, count: int) -> None:
        """Count body bytes sent, to clients and to peers."""
        self.sent_bytes += count
        self._bytes.labels(source).inc(count)

    def private_verdict(self, outcome: str) -> None:
        """Count a decision about a private image, one of AccessOutcome."""
        self._verdicts.labels(outcome).inc()

    def refused(self, limit: TransferLimit) -> None:
        """Count a transfer to another node that was refused."""
        self._refused.labels(limit).inc()
