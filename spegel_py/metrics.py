"""The metrics of one node: those of all rooms, in one registry of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder

from spegel_py.health.metrics import HealthMetrics
from spegel_py.inflight.metrics import InFlightMetrics
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.registry.metrics import ServerMetrics
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.routing.metrics import RoutingMetrics
from spegel_py.telemetry.metrics import PullMetrics, RegistryLabels


class NodeMetrics:
    """The metrics of one node. Not thread-safe beyond what prometheus-client gives."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        labels = RegistryLabels()
        ProcessCollector(registry=registry)
        self.health = HealthMetrics(registry)
        self.in_flight = InFlightMetrics(registry)
        self.mirror = MirrorMetrics(registry)
        self.preheat = PreheatMetrics(registry)
        self.pulls = PullMetrics(registry, labels)
        self.replicas = ReplicaMetrics(registry)
        self.routing = RoutingMetrics(registry, labels)
        self.server = ServerMetrics(registry)
        self._queues = Gauge(
            "spegel_queue_length",
            "Work taken up and not finished: keys to be told (advertise), bodies that are moved "
            "from files (send) and from peers (relay).",
            ["queue"],
            registry=registry,
        )

        self._tls_expiry = Gauge(
            "spegel_peer_tls_expiry_timestamp_seconds",
            "Unix time at which the certificate between peers ends; 0 without --peer-tls.",
            registry=registry,
        )

    def watch_tls(self, expires: Callable[[], float]) -> None:
        """Read the end of the certificate at every scrape; it must neither block nor raise."""
        self._tls_expiry.set_function(expires)

    def watch_queues(self, lengths: Mapping[str, Callable[[], float]]) -> None:
        """Read these lengths at every scrape; the functions must neither block nor raise."""
        for queue, length in lengths.items():
            self._queues.labels(queue).set_function(length)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics or Prometheus text, by Accept."""
        self.mirror.peers.forget(but=self.routing.connected)
        self.routing.refresh()
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
