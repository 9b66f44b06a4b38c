"""Everything that works around py-libp2p 0.8.1, in one place, with a self-test that runs at start-up.

Each trap with a star has a test in tests/unit/routing/test_compat.py that fails once upstream has mended it. What this
module gives to the rest is a host that is safe to run for months, and one way to dial.

 1.* `new_host` offers plaintext, SECIO and TLS beside Noise, and a resource manager whose limits (per address, per
    peer) refuse many nodes on one host: the swarm is put together here, Noise and yamux only, no resource manager.
 2.* The auto-connector dials everybody in the peer store, whatever its watermarks are, and the pruner closes
    connections over one: the mesh decides about connections itself, so the one is replaced and the other starved.
 3.* An inbound connection keeps its task and its slot of `_inbound_limiter` until the whole swarm stops, so the 300th
    connection in a node's life is the last one accepted: `_MeshSwarm` lets go when the connection closes.
 4. `dial_peer` needs the peer's id, tries one TCP address only, retries, and remembers failures for 60 s: `dial` here
    takes one address and an id that may be unknown, in which case the handshake tells it.
 5.* A listener sets SO_REUSEPORT, so that two nodes share a port silently: `addresses.check_port_free` looks first.
 6.* Listening on 0.0.0.0 announces 0.0.0.0: `addresses.OwnAddresses` lists those of the interfaces instead.
 7. A swarm that is stopped leaves the sockets it dialled open: `hang_up_all` closes them; one that it has let go of in
    the middle of a handshake or a loss is closed with the last reference to it.
 8.* It does not know the remote address of an IPv6 connection: `_remember_remote` notes it.
 9. A write that is cancelled half-way leaves the connection's cipher out of step, which breaks all its streams: what
    may be cancelled asks through tasks of its own (streams.Exchanges).
10. A thread cannot be ended, and the sockets of one that hangs would go on accepting: `_MeshSwarm` keeps a list of
    them, and `shut_sockets` shuts them from outside.
11. Its loggers write to stderr at WARNING and ERROR for every peer that leaves: `silence` keeps them for DEBUG.
12.* Disconnecting a peer forgets a connection that came while the old ones were being closed: it stands, and nobody
    knows of it. `hang_up` closes those that it is given, and no others.
13.* A stream gives back what was read with a frame for each read, of one byte too, which costs more than the message:
    `ease.ease_stream` has each stream release in bulk.
14.* A message is received in two reads, its length and the rest, each a system call: `ease.ReadAhead` takes what is
    there.
15.* A message passes a dozen locks, each of which gives the event loop a turn though it is free, at 50 us and more: the
    swarm's connections and streams have locks that do not (lock.Lock).
16.* A stream that proposes a protocol which is no UTF-8 ends the whole host, and so does whatever a handler raises:
    `_MeshSwarm` resets that stream, and logs a fault of this node once.
17.* A peer may send more than the window of a stream, without an end, and open any number of streams: what nobody reads
    is kept. `bounds` has the connection closed.
18. Anybody may hold any number of connections, each of them a peer: `bounds.Addresses` counts them by address, and the
    swarm closes those that are too many before their handshake.
"""

from __future__ import annotations

import inspect
import ipaddress
import logging
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p import create_yamux_muxer_option
from libp2p.abc import IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import YamuxStream
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable, RouterUnavailable
from spegel_py.routing.libp2p.bounds import (
    MAX_CONNECTIONS_PER_ADDRESS,
    ConnectionCounts,
    PeerExceedsBound,
    bound_connection,
)
from spegel_py.routing.libp2p.speedups import ReadAhead, ease_connection, ease_stream
from spegel_py.telemetry.logging import FaultLog

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 8192
"""Bound on libp2p connections: far above any cluster this is meant for, so that only descriptors are the limit."""
NEGOTIATION_TIMEOUT = 5.0
"""Seconds for a protocol negotiation; a healthy peer needs milliseconds, a starved one-core node may need seconds."""


class _NoAutoConnector(AutoConnector):
    """Dials nobody by itself (trap 2): its target is the middle of the watermarks, whatever they are."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Start nothing."""

    async def maybe_connect(self) -> None:
        """Connect nobody."""


class _MeshSwarm(Swarm):
    """A swarm that dials only when told to, and whose inbound connections give back their slot (traps 2 and 3)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.auto_connector = _NoAutoConnector(swarm=self)
        self.raws: weakref.WeakSet[RawConnection] = weakref.WeakSet()
        self.failed: Callable[[Exception], None] = lambda _: None
        """Is told whatever a stream's handler raises."""
        self.refused: Callable[[], None] = lambda: None
        """Is told of each connection from an address that holds too many."""
        self.noise_key = b""
        """The public key by which others know this process."""
        self._addresses = ConnectionCounts(MAX_CONNECTIONS_PER_ADDRESS)
        self._faults = FaultLog(log)

    def _failed(self, error: Exception) -> None:
        """Tell of a stream that ended in an error, and log it once if it is a fault of this node."""
        self.failed(error)
        if not isinstance(error, UnicodeDecodeError):
            self._faults.log_once("stream ended in a fault of this node", error)

    def track(self, raw: RawConnection) -> None:
        """Know of a new connection, and close its socket when py-libp2p has lost sight of it (traps 7, 8 and 14)."""
        raw.stream = ReadAhead(cast("Any", raw).stream.stream)
        _remember_remote(raw)
        self.raws.add(raw)
        weakref.finalize(raw, cast("Any", raw).stream.stream.socket._sock.close).atexit = False

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Prepare a connection of either side, before it is used (traps 15 and 17)."""
        ease_connection(muxed_conn)
        bound_connection(muxed_conn)
        return await super().add_conn(muxed_conn, direction)

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Have streams of others handled, none of which may end this node (trap 16)."""

        async def handle(stream: INetStream) -> None:
            try:
                await stream_handler(stream)
            except Exception as error:  # noqa: BLE001 - whatever a peer sends costs that peer its stream, and no more
                self._failed(error)
                with shielded(1):
                    await stream.reset()

        super().set_stream_handler(handle)

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Prepare a stream of either side, before its protocol is negotiated (traps 13 and 15)."""
        ease_stream(stream)
        await super().notify_opened_stream(stream)

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
        except Exception as error:  # noqa: BLE001 - a broken handshake of a stranger must not end the listener
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

    `announce` returns the addresses that are told to others, each time that they are told.
    `failed` is told whatever ends a stream of others, but for its own end, and `refused` of each connection that is
    refused because its address holds too many.
    """
    pair, own_id = create_new_key_pair(key.private_bytes_raw()), peer_id(key)
    noise_pair = create_noise_key_pair()
    noise = NoiseTransport(pair, noise_privkey=noise_pair.private_key)
    upgrader = TransportUpgrader(
        secure_transports_by_protocol={TProtocol(NOISE): noise},
        muxer_transports_by_protocol={
            protocol: muxer
            for protocol, muxer in create_yamux_muxer_option().items()
            if protocol == YAMUX
        },
    )
    store = PeerStore()
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
    swarm = _MeshSwarm(
        own_id,
        store,
        upgrader,
        [TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=config,
    )
    swarm.failed, swarm.refused, swarm.noise_key = failed, refused, noise_pair.public_key.to_bytes()
    return BasicHost(
        swarm, addrs_factory=lambda _: announce(), disable_identify_address_discovery=True
    )


async def dial(host: BasicHost, address: Multiaddr, *, expected: ID | None, timeout: float) -> ID:
    """Connect to the peer at one address and return its id, learnt from the Noise handshake.

    With `expected`, a peer of another id is refused. Raises PeerUnreachable saying why; `timeout` in seconds covers
    connecting, securing and multiplexing together.
    """
    swarm = cast("_MeshSwarm", host.get_network())
    async with _secured(swarm, address, expected=expected, timeout=timeout) as secured:
        peer_id = secured.get_remote_peer()
        muxed = await swarm.upgrader.upgrade_connection(secured, peer_id)
        await swarm.add_conn(muxed, direction="outbound")
        return peer_id


async def prove(host: BasicHost, address: Multiaddr, *, expected: ID, timeout: float) -> None:
    """Return if the peer `expected` answers at one address, as its Noise handshake proves; the connection is closed.

    Raises PeerUnreachable saying why; `timeout` in seconds covers connecting and the handshake.
    """
    swarm = cast("_MeshSwarm", host.get_network())
    async with _secured(swarm, address, expected=expected, timeout=timeout, is_kept=False):
        pass  # the handshake was all that was wanted


@asynccontextmanager
async def _secured(
    swarm: _MeshSwarm,
    address: Multiaddr,
    *,
    expected: ID | None,
    timeout: float,
    is_kept: bool = True,
) -> AsyncIterator[ISecureConn]:
    """Give a connection to an address once the handshake has told who answers.

    After the block it stands where it `is_kept`.

    `timeout` holds for the block too. Whatever goes wrong closes the connection, and is a PeerUnreachable unless it
    is a cancellation.
    """
    raw: RawConnection | None = None
    try:
        with trio.fail_after(timeout):
            raw = cast("RawConnection", await TCP().dial(address))
            swarm.track(raw)
            # The handshake authenticates the other side in any case; None only skips the comparison.
            secured = await swarm.upgrader.security_multistream.secure_outbound(
                raw, cast("ID", None)
            )
            _check_identity(secured, expected=expected, swarm=swarm)
            yield secured
        if not is_kept:
            await _close(raw)
    except trio.TooSlowError:
        await _close(raw)
        raise PeerUnreachable(f"no answer from {address} within {timeout} s") from None
    except PeerUnreachable:
        await _close(raw)
        raise
    except Exception as error:  # py-libp2p raises a dozen kinds here, some of them bare
        await _close(raw)
        raise PeerUnreachable(f"cannot connect to {address}: {error!r}") from error
    except BaseException:  # cancelled: nobody else knows of this socket yet
        await _close(raw)
        raise


class ThisNode(PeerUnreachable):
    """The address is this node's own."""


class SameIdentity(PeerUnreachable):
    """Another process answers with the identity of this node."""


def process_key(connection: INetConn) -> bytes:
    """Return the key of the process at the other end of a connection: a restarted node has another one."""
    return _noise_key(cast("Any", connection).muxed_conn.secured_conn)


def _noise_key(secured: ISecureConn) -> bytes:
    return cast("bytes", cast("Any", secured).remote_permanent_pubkey.to_bytes())


def _check_identity(secured: ISecureConn, *, expected: ID | None, swarm: _MeshSwarm) -> None:
    """Raise PeerUnreachable if the other side is this node, its twin, or another one than expected."""
    peer_id = secured.get_remote_peer()
    if peer_id == swarm.get_peer_id():
        if _noise_key(secured) == swarm.noise_key:
            raise ThisNode("that is this node itself")
        raise SameIdentity("another node has the identity of this one")
    if expected is not None and peer_id != expected:
        raise PeerUnreachable(f"expected {expected}, found {peer_id}")


async def _close(raw: RawConnection | None) -> None:
    if raw is not None:
        with shielded(1):
            await raw.close()


def _remember_remote(raw: RawConnection) -> None:
    """Note the other end's address, which py-libp2p finds for IPv4 only (trap 8)."""
    stream = cast("Any", raw).stream
    try:
        host, port, *_ = stream.stream.socket.getpeername()
    except OSError:  # gone already
        return
    stream._cached_remote_address = (str(host), int(port))


async def hang_up(connections: Iterable[INetConn]) -> None:
    """Close these connections within two seconds, whatever else happens; what a peer has connected since stands."""
    with shielded(2):
        for connection in connections:
            await connection.close()


async def hang_up_all(host: BasicHost) -> None:
    """Close every connection: a swarm that is only stopped leaves its dialled sockets to the garbage collector."""
    with shielded(2):
        async with trio.open_nursery() as nursery:
            for peer in host.get_connected_peers():
                nursery.start_soon(host.disconnect, peer)


def shut_sockets(host: BasicHost) -> None:
    """Shut all sockets of a host whose thread does not answer (trap 10): it accepts nobody, and peers see the end.

    The descriptors stay open, so that their numbers do not come to mean something else to a thread that wakes up.
    """
    network = cast("Any", host.get_network())
    _shut([each.socket for listener in network.listeners.values() for each in listener.listeners])
    shut_connections(host)


def shut_connections(host: BasicHost) -> None:
    """Shut the sockets of all connections: peers see their end, whatever the swarm knows of them (trap 7)."""
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
    """Return the IP literal at the other end of a connection, or of the one that a stream is part of."""
    remote = cast("Any", connection).muxed_conn.get_remote_address()
    return None if remote is None else _plain(str(remote[0]))


def _plain(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def shielded(seconds: float) -> trio.CancelScope:
    """Return a scope for closing things: it lasts through a cancellation from outside, but not for ever."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


def silence() -> None:
    """Keep py-libp2p's own loggers quiet: what matters of a peer's coming and going is logged by the service."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    logging.getLogger("multiaddr").setLevel(logging.CRITICAL)
    logging.getLogger("async_service").setLevel(logging.CRITICAL)


def self_test() -> None:
    """Raise RouterUnavailable naming each private part of py-libp2p that is not as this module needs it."""
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
