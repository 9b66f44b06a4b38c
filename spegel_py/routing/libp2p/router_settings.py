"""The settings of the libp2p side, as a value that both sides of the bridge know."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.routing.cluster_keys import KeysMode
from spegel_py.routing.peer_proofs import NodeSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """The settings of the libp2p side.

    Args:
        host, registry_host: IP literals, or empty for all interfaces.
        interval: seconds between two announcements.
        mesh_limit: members up to which every peer is sent every key.
        replication: peers that are sent each key in a larger cluster.
        shares: True if this node takes part in in-flight sharing.
        floor: the replicas of each image that this node wants; None if it answers no requests
            about replicas, as an older version.
        zone: the zone that this node is in, empty for none.
        tls: True if this node's registry can be asked by TLS.
        pings: True if this node tells its peers that it watches them by pings. Without, it is like
            an older version to them, for tests.
        password: `user:password` of all registries of the cluster, empty if they have none.
        other_passwords: further ones by which peers may prove to belong to the cluster.
        secret: the secret from which peers' keys for HTTP requests are derived; None to tell them
            no keys, as an older version.
        keys_mode: how the cluster's keys are used, if the router is given any.
    """

    key: Ed25519PrivateKey
    host: str
    port: int
    registry_host: str
    registry_port: int
    interval: float
    mesh_limit: int
    replication: int
    agent: str
    shares: bool = False
    floor: int | None = None
    zone: str = ""
    tls: bool = False
    pings: bool = True
    password: bytes = field(default=b"", repr=False)
    other_passwords: tuple[bytes, ...] = field(default=(), repr=False)
    secret: NodeSecret | None = None
    keys_mode: KeysMode = KeysMode.REQUIRE
