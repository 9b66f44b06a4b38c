"""The work-arounds for py-libp2p 0.8.1, listed in one place, with a self-test at start-up.

Each trap with a star has a test in tests/unit/routing/test_compat.py that fails once upstream has
fixed it. The rest of the package gets from here a host that is safe to run for months.

 1.* `new_host` offers plaintext, SECIO and TLS beside Noise. Its resource manager has limits per
    address and per peer that refuse many nodes on one host. `build_host` builds the swarm itself:
    Noise and yamux only, no resource manager.
 2.* The auto-connector dials every peer in the peer store at any watermark, and the pruner closes
    connections above a watermark. The mesh decides about connections itself, so the auto-connector
    is replaced, and the pruner's watermark is never reached.
 3.* An inbound connection keeps its task and its slot of `_inbound_limiter` until the whole swarm
    stops, so the 300th connection in a node's life is the last one accepted. `MeshSwarm` releases
    both when the connection closes.
 4. `dial_peer` needs the peer's id, tries one TCP address only, retries, and remembers failures for
    60 s. `dialling.dial` takes one address and an optional id, which the handshake gives otherwise.
 5.* A listener sets SO_REUSEPORT, so two nodes share a port silently: `addresses.check_port_free`
    checks first.
 6.* Listening on 0.0.0.0 announces 0.0.0.0: `multiaddrs.OwnAddresses` lists the interfaces instead.
 7. A stopped swarm leaves the sockets it dialled open: `closing.hang_up_all` closes them. A
    connection that the swarm lost during a handshake is closed with its last reference.
 8.* It does not know the remote address of an IPv6 connection: `mesh_swarm` stores it.
 9. A write that is cancelled half-way leaves the connection's cipher out of step, which breaks all
    its streams: `streams.StreamPool` runs exchanges in tasks of its own.
10. A thread cannot be ended, and the sockets of a hanging thread would go on accepting: `MeshSwarm`
    lists all sockets, and `closing.shut_sockets` shuts them from outside.
11. Its loggers write to stderr at WARNING and ERROR for every peer that leaves: `silence` mutes all
    below CRITICAL.
12.* Disconnecting a peer forgets a connection that came while the old ones were being closed: it
    stays open, and the swarm does not know it. `closing.hang_up` closes only the connections it is
    given.
13.* A stream returns its window with a frame for each read, even of one byte, which costs more than
    the message: `speedups.speed_up_stream` makes each stream return it in bulk.
14.* A message is received in two reads, its length and the rest, each a system call:
    `speedups.ReadAhead` reads all waiting bytes.
15.* A message passes a dozen locks, each of which yields to the event loop though it is free, at
    50 us or more: `speedups.FastLock` replaces them.
16.* A proposed protocol that is not UTF-8 ends the whole host, and so does any error of a stream
    handler: `MeshSwarm` resets that stream, and logs a fault of this node once.
17.* A peer may send more than the window of a stream, without end, and open any number of streams;
    unread bytes are kept. `bounds.bound_connection` makes the swarm close the connection.
18. Any process may hold any number of connections, each as another peer: `bounds.ConnectionCounts`
    counts them by address, and the swarm closes excess ones before their handshake.
19.* A stream to a peer that is not connected dials the addresses that the peer claims, and a dial
    that is cancelled leaves its socket open. `MeshSwarm` opens streams on connections only.
20.* Importing it loads all its transports and protocols, and a dozen packages behind them:
    `stand_ins` has stand-ins for the parts that a node never uses.
21.* A connection pings its peer every 30 s to measure a time that nobody needs, and has two tasks
    for this and for sweeping: `lean_yamux.LeanYamux` has neither, and pings when it is asked.
22.* Each frame is an encrypted message and a packet of its own, and each part of one is awaited:
    `lean_yamux.LeanYamux` writes the frames of one turn together, and reads all that have come.
23.* A protocol is negotiated in two round trips, and its lines are read byte by byte:
    `negotiation` needs one message each way.
24.* Each identify message is made and signed anew, and each received one is verified, although the
    Noise handshake has authenticated its sender: `lean_host.LeanHost` does neither.
25. Each part of the swarm is told of each stream in a task of its own, and none is interested:
    `MeshSwarm` tells them of connections only, in turn.
26.* A machine that is switched off leaves its connections open for two hours: `MeshSwarm.track` has
    the kernel probe every connection.
27.* A connection has three tasks that wait as long as it lasts, to read it, to write it, and to
    accept its streams, each of 5 kB: `MeshSwarm.add_conn` starts the reading one only.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetConn, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.libp2p.lean_host import NEGOTIATION_TIMEOUT, LeanHost, LeanUpgrader
from spegel_py.routing.libp2p.lean_yamux import LeanYamux
from spegel_py.routing.libp2p.mesh_swarm import MeshSwarm
from spegel_py.routing.libp2p.network_gate import NetworkGate

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 8192
"""Most libp2p connections: far above any intended cluster, so that only descriptors are the
limit."""


def peer_id(key: Ed25519PrivateKey) -> ID:
    """Return the peer id of an identity."""
    return ID.from_pubkey(create_new_key_pair(key.private_bytes_raw()).public_key)


def build_host(
    key: Ed25519PrivateKey,
    *,
    announce: Callable[[], list[Multiaddr]],
    failed: Callable[[Exception], None] = lambda _: None,
    refused: Callable[[], None] = lambda: None,
    stranger: Callable[[str, str], None] = lambda address, why: None,
    gate: NetworkGate | None = None,
) -> BasicHost:
    """Return a host with this identity that offers Noise and yamux over TCP.

    Args:
        announce: returns the addresses to announce, each time anew.
        failed: is called with the error of each inbound stream that ends in one.
        refused: is called for each connection refused because its address holds too many.
        stranger: is called with the address of each connection without a key, and why.
        gate: decides which connections pass, by default all.
    """
    pair, own_id = create_new_key_pair(key.private_bytes_raw()), peer_id(key)
    noise_pair = create_noise_key_pair()
    noise = NoiseTransport(pair, noise_privkey=noise_pair.private_key)
    upgrader = LeanUpgrader(
        secure_transports_by_protocol={TProtocol(NOISE): noise},
        muxer_transports_by_protocol={TProtocol(YAMUX): Yamux},
    )
    store = PeerStore(max_peers=MAX_CONNECTIONS)
    store.add_key_pair(own_id, pair)
    config = ConnectionConfig(
        max_connections=MAX_CONNECTIONS,
        min_connections=0,
        low_watermark=0,
        high_watermark=MAX_CONNECTIONS,
        inbound_upgrade_timeout=NEGOTIATION_TIMEOUT,
        outbound_upgrade_timeout=NEGOTIATION_TIMEOUT,
        inbound_stream_protocol_negotiation_timeout=NEGOTIATION_TIMEOUT,
        outbound_stream_protocol_negotiation_timeout=NEGOTIATION_TIMEOUT,
    )
    swarm = MeshSwarm(
        own_id,
        store,
        upgrader,
        [TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=config,
    )
    swarm.failed, swarm.refused, swarm.stranger = failed, refused, stranger
    swarm.gate = gate or NetworkGate()
    swarm.noise_key = noise_pair.public_key.to_bytes()
    return LeanHost(swarm, announce=announce)


def process_key(connection: INetConn) -> bytes:
    """Return the key of the process at the other end; a restarted node has a new key."""
    return noise_key(cast("Any", connection).muxed_conn.secured_conn)


def noise_key(secured: ISecureConn) -> bytes:
    """Return the key of the process at the other end of a secured connection."""
    return cast("bytes", cast("Any", secured).remote_permanent_pubkey.to_bytes())


def ping(connection: INetConn) -> None:
    """Ping the peer at the other end; `MeshSwarm.answered` is called with it when it answers."""
    cast("LeanYamux", cast("Any", connection).muxed_conn).ping()


def silence() -> None:
    """Keep py-libp2p's own loggers quiet: the mesh logs when a peer comes or goes."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    logging.getLogger("multiaddr").setLevel(logging.CRITICAL)
    logging.getLogger("async_service").setLevel(logging.CRITICAL)


def self_test() -> None:
    """Raise RouterUnavailable naming each private part of py-libp2p that has changed."""
    wanted: list[tuple[object, str, tuple[str, ...]]] = [
        (Swarm, "_do_handle_inbound_connection", ("read_write_closer", "maddr", "failure_event")),
        (Swarm, "upgrade_inbound_raw_conn", ("raw_conn", "maddr")),
        (AutoConnector, "run_background_task", ("nursery",)),
        (AutoConnector, "maybe_connect", ()),
        (Swarm, "add_conn", ("muxed_conn", "direction")),
        (Swarm, "notify_opened_stream", ("stream",)),
        (Swarm, "_trim_connections", ("peer_id",)),
        (SwarmConn, "_handle_muxed_stream", ("muxed_stream",)),
        (TransportUpgrader, "upgrade_connection", ("conn", "peer_id")),
        (NoiseTransport, "secure_outbound", ("conn", "peer_id")),
        (YamuxStream, "_auto_tune_and_send_window_update", ("bytes_read",)),
        (YamuxStream, "_grow_threshold", ()),
    ]
    wrong = [
        f"{owner.__name__}.{name}"  # type: ignore[attr-defined]  # all owners are classes
        for owner, name, parameters in wanted
        if not _takes(getattr(owner, name, None), parameters)
    ]
    if wrong:
        raise RouterUnavailable(
            f"this version of py-libp2p differs in {', '.join(wrong)}; 0.8.1 is needed"
        )


def _takes(function: Any, parameters: tuple[str, ...]) -> bool:
    return callable(function) and set(parameters) <= set(inspect.signature(function).parameters)
