"""The metrics of routing: peers, records, announcements."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Collection, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from spegel_py.oci.reference import is_replica_key
from spegel_py.routing.peer_proofs import ProofResult
from spegel_py.telemetry.metrics import RegistryLabels, show_counts

Direction = Literal["sent", "received"]

RECORDS = ("announced", "provided")
"""How records came: in the announcement of a whole node, or one by one as in standard Kademlia."""

MEMBER_KINDS = ("keyed", "clear")
"""Kinds of connected peers: with a key of the cluster, and without."""

TLS_KINDS = ("encrypted", "clear")
"""Kinds of connected peers: with a registry that can be asked by TLS, and without."""

PROTOCOLS = ("announce", "kademlia")
"""The protocol of a connected peer: announcements, or only Kademlia. The latter is Spegel in Go,
or a peer that has not said hello yet."""


class RoutingMetrics:
    """The metrics of routing. Frames are counted from the libp2p thread too."""

    def __init__(self, registry: CollectorRegistry, labels: RegistryLabels) -> None:
        self._labels = labels
        self._connected: Callable[[], Collection[str]] = tuple
        self._images: Callable[[], Collection[str]] = tuple
        self._connected_peers = Gauge(
            "spegel_connected_peers", "Peers connected now.", registry=registry
        )
        self._records_held = Gauge(
            "spegel_records_held",
            "Records of who holds what that this node holds now.",
            registry=registry,
        )
        self._records = Gauge(
            "spegel_dht_records", "Records held, by how they came.", ["kind"], registry=registry
        )
        self._peers = Gauge(
            "spegel_dht_peers",
            "Peers connected, by their protocol.",
            ["protocol"],
            registry=registry,
        )
        self._members = Gauge(
            "spegel_members",
            "Peers connected with a key of the cluster (keyed), and without (clear).",
            ["kind"],
            registry=registry,
        )
        self._tls_members = Gauge(
            "spegel_tls_members",
            "Peers connected whose registry can be asked by TLS (encrypted), and others (clear).",
            ["kind"],
            registry=registry,
        )
        self._dropped = Counter(
            "spegel_announce_frames_dropped",
            "Announcements of peers that were dropped, by reason.",
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
        self._pings = Counter(
            "spegel_peer_pings",
            "Events of watching peers by pings: an answer in time (answered) or late (late), a "
            "suspicion (suspected), its end by an answer (refuted) or by dropping the peer "
            "(dropped), and a delay of this node itself (stalled).",
            ["event"],
            registry=registry,
        )
        self._proofs = Counter(
            "spegel_peer_proofs",
            "Proofs between peers that were checked, of requests to this node and of answers to "
            "it: right, missing, wrong, late (old), or unknown (of a peer that is not connected, "
            "or lacks the password). Only right answers are believed.",
            ["message", "result"],
            registry=registry,
        )
        self._advertised_tags = Gauge(
            "spegel_advertised_image_tags", "Tags advertised.", ["registry"], registry=registry
        )
        self._advertised_content = Gauge(
            "spegel_advertised_content_digests",
            "Content digests advertised.",
            ["registry"],
            registry=registry,
        )
        self._advertised_images = Gauge(
            "spegel_advertised_image_digests",
            "Images advertised, by a tag or by a digest in place of one.",
            ["registry"],
            registry=registry,
        )

    @property
    def connected(self) -> Collection[str]:
        """The ids of the peers that are connected now."""
        return self._connected()

    def carried(self, direction: Direction, frame: str, size: int) -> None:
        """Count a frame of `size` bytes; `frame` is one of the protocol's few kinds."""
        self._frames.labels(direction, frame).inc()
        self._bytes.labels(direction, frame).inc(size)

    def pinged(self, event: str) -> None:
        """Count an event of watching peers by pings; `event` is one of a few."""
        self._pings.labels(event).inc()

    def proven(self, message: Literal["request", "answer"], result: ProofResult) -> None:
        """Count the result of checking the proof of a request or an answer."""
        self._proofs.labels(message, result.value).inc()

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count announcements that were dropped; `reason` must be one of a few."""
        self._dropped.labels(reason).inc(count)

    def advertised(self, keys: Collection[str]) -> None:
        """Show the keys that are advertised now: tags by registry, and the number of digests.

        Digests belong to no registry. Replicas are counted elsewhere.
        """
        keys = [key for key in keys if not is_replica_key(key)]
        tags = Tally(self._labels.of(key.partition("/")[0]) for key in keys if "/" in key)
        self._advertised_tags.clear()
        for registry, count in tags.items():
            self._advertised_tags.labels(registry).set(count)
        self._advertised_content.labels("").set(len(keys) - tags.total())

    def watch(
        self,
        *,
        connected: Callable[[], Collection[str]],
        records_held: Callable[[], float],
        records: Callable[[], Mapping[str, int]],
        peers: Callable[[], Mapping[str, int]],
        members: Callable[[], Mapping[str, int]],
        tls_members: Callable[[], Mapping[str, int]],
        images: Callable[[], Collection[str]],
    ) -> None:
        """Call these functions at every scrape; they must neither block nor raise.

        Args:
            connected: returns the ids of the connected peers.
            records_held: returns the number of records.
            records: returns the number of records for each of RECORDS.
            peers: returns the number of peers for each of PROTOCOLS.
            members: returns the number of peers for each of MEMBER_KINDS.
            tls_members: returns the number of peers for each of TLS_KINDS.
            images: returns the names of all images that are advertised.
        """
        self._connected, self._images = connected, images
        self._connected_peers.set_function(lambda: float(len(connected())))
        self._records_held.set_function(records_held)
        show_counts(self._records, RECORDS, records)
        show_counts(self._peers, PROTOCOLS, peers)
        show_counts(self._members, MEMBER_KINDS, members)
        show_counts(self._tls_members, TLS_KINDS, tls_members)

    def refresh(self) -> None:
        """Count the advertised images by registry; called before every scrape."""
        self._advertised_images.clear()
        registries = (name.partition("/")[0] for name in self._images())
        for registry, count in Tally(map(self._labels.of, registries)).items():
            self._advertised_images.labels(registry).set(count)
