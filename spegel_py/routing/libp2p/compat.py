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
 7. A stopped swarm leaves the sockets it dialled open: `hang_up_all` closes them. A connection that
    the swarm lost during a handshake is closed with its last reference.
 8.* It does not know the remote address of an IPv6 connection: `_remember_remote` stores it.
 9. A write that is cancelled half-way leaves the connection's cipher out of step, which breaks all
    its streams: `streams.StreamPool` runs exchanges in tasks of its own.
10. A thread cannot be ended, and the sockets of a hanging thread would go on accepting: `MeshSwarm`
    lists all sockets, and `shut_sockets` shuts them from outside.
11. Its loggers write to stderr at WARNING and ERROR for every peer that leaves: `silence` mutes all
    below CRITICAL.
12.* Disconnecting a peer forgets a connection that came while the old ones were being closed: it
    stays open, and the swarm does not know it. `hang_up` closes only the connections it is given.
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
"""

from __future__ import annotations

import inspect
import ipaddress
import logging
import socket
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.libp2p.bounds import (
    MAX_CONNECTIONS_PER_ADDRESS,
    ConnectionCounts,
    PeerExceedsBound,
    bound_connection,
)
from spegel_py.routing.libp2p.lean_host import NEGOTIATION_TIMEOUT, LeanHost, LeanUpgrader
from spegel_py.routing.libp2p.lean_yamux import LeanYamux
from spegel_py.routing.libp2p.speedups import ReadAhead, speed_up_connection, speed_up_stream
from spegel_py.telemetry.logging import FaultLog

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 8192
"""Most libp2p connections: far above any intended cluster, so that only descriptors are the
limit."""


KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 7),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12_000),
)
"""Options with which the kernel closes the connection to a dead machine after 12 s: it probes an
idle one after 5 s, and then 7 times. With 5 % loss that is wrong once in 12 million times."""


class _NoAutoConnector(AutoConnector):
    """Never dials by itself (trap 2): the stock one dials up to the middle of the watermarks."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Start nothing."""

    async def maybe_connect(self) -> None:
        """Connect to no peer."""


class MeshSwarm(Swarm):
    """A swarm that dials nobody by itself, and frees inbound slots (traps 2, 3 and 19)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.auto_connector = _NoAutoConnector(swarm=self)
        self.raws: weakref.WeakSet[RawConnection] = weakref.WeakSet()
        self.failed: Callable[[Exception], None] = lambda _: None
        """Is called with any error of a stream's handler."""
        self.refused: Callable[[], None] = lambda: None
        """Is called for each connection that is refused because its address holds too many."""
        self.answered: Callable[[ID], None] = lambda _: None
        """Is called with a peer for each of its answers to a ping; set it before the host runs."""
        self.noise_key = b""
        """The public key that identifies this process to peers."""
        self._addresses = ConnectionCounts(MAX_CONNECTIONS_PER_ADDRESS)
        self._faults = FaultLog(log)

    def _failed(self, error: Exception) -> None:
        """Report a stream that ended in an error, and log it once if it is a fault of this node."""
        self.failed(error)
        if not isinstance(error, UnicodeDecodeError):
            self._faults.log_once("stream ended in a fault of this node", error)

    def track(self, raw: RawConnection) -> None:
        """Track a new connection; its socket closes with its last reference (traps 7, 8, 14)."""
        raw.stream = ReadAhead(cast("Any", raw).stream.stream)
        _remember_remote(raw)
        _keep_alive(raw)
        self.raws.add(raw)
        weakref.finalize(raw, cast("Any", raw).stream.stream.socket._sock.close).atexit = False

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Raise SwarmException: only the mesh dials, at addresses that it has checked (trap 19)."""
        raise SwarmException(f"{peer_id} is not connected")

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Prepare a connection of either direction before it is used (traps 15 and 17)."""
        speed_up_connection(muxed_conn)
        bound_connection(muxed_conn)
        cast("LeanYamux", muxed_conn).answered = self.answered
        return await super().add_conn(muxed_conn, direction)

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Handle inbound streams; an error of the handler resets its stream only (trap 16)."""

        async def handle(stream: INetStream) -> None:
            try:
                await stream_handler(stream)
            except Exception as error:  # noqa: BLE001 - a peer's input may end its stream only
                self._failed(error)
                with shielded(1):
                    await stream.reset()

        super().set_stream_handler(handle)

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Prepare a stream of either direction before its negotiation (traps 13 and 15)."""
        speed_up_stream(stream)

    async def notify_closed_stream(self, stream: INetStream) -> None:
        """Tell nobody: no part here is interested in streams (trap 25)."""

    async def _notify(self, method: str, *args: Any) -> None:
        """Call the parts that are told of connections, in turn (trap 25)."""
        for notifee in list(self.notifees):
            try:
                await getattr(notifee, method)(self, *args)
            except Exception as error:  # noqa: BLE001 - the next one is told all the same
                self._failed(error)

    async def new_stream(self, peer_id: ID) -> INetStream:
        """Return a stream to a peer, not negotiated yet. Raises SwarmException."""
        for connection in self.get_connections(peer_id):
            if not connection.is_closed:
                with suppress(MuxedStreamError, ConnectionClosedError):
                    return await cast("SwarmConn", connection).new_stream()
        raise SwarmException(f"{peer_id} is not connected")

    async def _do_handle_inbound_connection(
        self, read_write_closer: Any, maddr: Multiaddr, failure_event: Any
    ) -> None:
        raw = RawConnection(read_write_closer, False)
        self.track(raw)
        address = raw.get_remote_address()
        try:
            with self._addresses.one_more(_plain(str(address[0])) if address else ""):
                muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
                for connection in self.get_connections(muxed.peer_id):
                    if cast("Any", connection).muxed_conn is muxed:
                        await cast("Any", connection).event_closed.wait()
        except PeerExceedsBound:
            self.refused()
            with shielded(1):
                await raw.close()
        except Exception as error:  # noqa: BLE001 - a broken handshake must not end the listener
            logging.getLogger(__name__).debug("inbound connection failed: %r", error)
            with shielded(1):
                await raw.close()


def peer_id(key: Ed25519PrivateKey) -> ID:
    """Return the peer id of an identity."""
    return ID.from_pubkey(create_new_key_pair(key.private_bytes_raw()).public_key)


def build_host(
    key: Ed25519PrivateKey,
    *,
    announce: Callable[[], list[Multiaddr]],
    failed: Callable[[Exception], None] = lambda _: None,
    refused: Callable[[], None] = lambda: None,
) -> BasicHost:
    """Return a host with this identity that offers Noise and yamux over TCP.

    Args:
        announce: returns the addresses to announce, each time anew.
        failed: is called with the error of each inbound stream that ends in one.
        refused: is called for each connection refused because its address holds too many.
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
    swarm.failed, swarm.refused, swarm.noise_key = failed, refused, noise_pair.public_key.to_bytes()
    return LeanHost(swarm, announce=announce)


def process_key(connection: INetConn) -> bytes:
    """Return the key of the process at the other end; a restarted node has a new key."""
    return noise_key(cast("Any", connection).muxed_conn.secured_conn)


def noise_key(secured: ISecureConn) -> bytes:
    """Return the key of the process at the other end of a secured connection."""
    return cast("bytes", cast("Any", secured).remote_permanent_pubkey.to_bytes())


def _remember_remote(raw: RawConnection) -> None:
    """Store the remote address, which py-libp2p finds for IPv4 only (trap 8)."""
    stream = cast("Any", raw).stream
    try:
        host, port, *_ = stream.stream.socket.getpeername()
    except OSError:  # gone already
        return
    stream._cached_remote_address = (str(host), int(port))


def _keep_alive(raw: RawConnection) -> None:
    """Have the kernel close a connection whose other end is gone (trap 26)."""
    with suppress(OSError):  # gone already
        for level, option, value in KEEPALIVE:
            cast("Any", raw).stream.stream.socket.setsockopt(level, option, value)


def ping(connection: INetConn) -> None:
    """Ping the peer at the other end; `MeshSwarm.answered` is called with it when it answers."""
    cast("LeanYamux", cast("Any", connection).muxed_conn).ping()


async def hang_up(connections: Iterable[INetConn]) -> None:
    """Close these connections within two seconds, even if cancelled; the peer's newer ones stay."""
    with shielded(2):
        for connection in connections:
            await connection.close()


async def hang_up_all(host: BasicHost) -> None:
    """Close every connection: a stopped swarm would leave its dialled sockets open."""
    with shielded(2):
        async with trio.open_nursery() as nursery:
            for peer in host.get_connected_peers():
                nursery.start_soon(host.disconnect, peer)


def shut_sockets(host: BasicHost) -> None:
    """Shut all sockets of a host whose thread hangs (trap 10): peers see their end.

    The descriptors stay open, so that their numbers cannot be reused while the thread may wake up.
    """
    network = cast("Any", host.get_network())
    _shut([each.socket for listener in network.listeners.values() for each in listener.listeners])
    shut_connections(host)


def shut_connections(host: BasicHost) -> None:
    """Shut the sockets of all connections, lost ones too (trap 7)."""
    _shut(
        [
            cast("Any", raw).stream.stream.socket
            for raw in list(cast("Any", host.get_network()).raws)
        ]
    )


def _shut(sockets: Iterable[Any]) -> None:
    for one in sockets:
        with suppress(OSError):  # closed already
            one.shutdown(socket.SHUT_RDWR)


def remote_ip(connection: INetConn | INetStream) -> str | None:
    """Return the IP literal at the other end of a connection or stream."""
    remote = cast("Any", connection).muxed_conn.get_remote_address()
    return None if remote is None else _plain(str(remote[0]))


def _plain(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def shielded(seconds: float) -> trio.CancelScope:
    """Return a scope for closing things: it outlasts a cancellation from outside, for `seconds`."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


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
