"""What this node counts about finding peers: names of ours, Spegel has none. Counted from the libp2p thread too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from spegel_py.telemetry.counts import show

Direction = Literal["sent", "received"]

RECORDS = ("announced", "provided")
"""How records came: in an announcement of a whole node, or one by one as standard Kademlia has them."""

PROTOCOLS = ("announce", "kademlia")
"""What connected peers speak: announcements, or Kademlia only (Spegel in Go, and who has not said hello yet)."""


class RoutingMetrics:
    """The meters of the DHT and of announcements, in a node's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._records = Gauge(
            "spegel_dht_records", "Records held, by how they came.", ["kind"], registry=registry
        )
        self._peers = Gauge(
            "spegel_dht_peers",
            "Peers connected, by what they speak.",
            ["protocol"],
            registry=registry,
        )
        self._dropped = Counter(
            "spegel_announce_frames_dropped",
            "Announcements of peers that were not taken, by reason.",
            ["reason"],
            registry=registry,
        )
        self._frames = Counter(
            "spegel_announce_frames",
            "Frames of the announce protocol, sent and received, by kind.",
            ["direction", "frame"],
            registry=registry,
        )
        self._bytes = Counter(
            "spegel_announce_bytes",
            "Bytes of those frames, without what encryption and TCP add.",
            ["direction", "frame"],
            registry=registry,
        )

    def carried(self, direction: Direction, frame: str, size: int) -> None:
        """Count a frame of so many bytes; `frame` is one of the protocol's few kinds."""
        self._frames.labels(direction, frame).inc()
        self._bytes.labels(direction, frame).inc(size)

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count announcements not taken; `reason` must be one of a few."""
        self._dropped.labels(reason).inc(count)

    def watch(
        self, *, records: Callable[[], Mapping[str, int]], peers: Callable[[], Mapping[str, int]]
    ) -> None:
        """Ask these at every scrape, by RECORDS and PROTOCOLS: they must neither block nor raise."""
        show(self._records, RECORDS, records)
        show(self._peers, PROTOCOLS, peers)
