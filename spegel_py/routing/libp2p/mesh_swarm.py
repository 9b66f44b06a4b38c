"""The swarm of a node: it dials nobody by itself, and a peer's faults end its connection at most.

`compat` has the list of the traps that are named here.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import structlog
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.custom_types import StreamHandlerFn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr

from spegel_py.routing.libp2p.bounds import (
    MAX_CONNECTIONS_PER_ADDRESS,
    ConnectionCounts,
    PeerExceedsBound,
    bound_connection,
)
from spegel_py.routing.libp2p.closing import shielded
from spegel_py.routing.libp2p.lean_yamux import LeanYamux
from spegel_py.routing.libp2p.network_gate import NetworkGate, Stranger, key_of
from spegel_py.routing.libp2p.speedups import ReadAhead, speed_up_connection, speed_up_stream
from spegel_py.telemetry.logging import FaultLog

log = structlog.get_logger(__name__)

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
        self.stranger: Callable[[str, str], None] = lambda address, why: None
        """Is called with the address of each connection that does not pass the gate, and why."""
        self.gate = NetworkGate()
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
        """Take up a connection of either direction, before it is used (traps 15, 17 and 27).

        Raises SwarmException if there are too many.
        """
        speed_up_connection(muxed_conn)
        bound_connection(muxed_conn)
        muxed, nursery = cast("LeanYamux", muxed_conn), self.background_nursery
        held, most = self.connections, self.connection_config.max_connections
        if nursery is None or sum(map(len, held.values())) >= most:
            await muxed.close()
            raise SwarmException(f"{muxed.peer_id} is one connection too many")
        connection = SwarmConn(muxed, self, direction=direction)
        connection.event_started.set()
        muxed.answered, muxed.accepted = self.answered, connection._handle_muxed_stream
        held.setdefault(muxed.peer_id, []).append(connection)
        self._trim_connections(muxed.peer_id)
        nursery.start_soon(muxed.start)
        await muxed.event_started.wait()
        await self.notify_connected(connection)
        return connection

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
            with self._addresses.one_more(plain_ip(str(address[0])) if address else ""):
                await self.gate.admit(raw)
                muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
                for connection in self.get_connections(muxed.peer_id):
                    if cast("Any", connection).muxed_conn is muxed:
                        await cast("Any", connection).event_closed.wait()
        except PeerExceedsBound:
            self.refused()
            with shielded(1):
                await raw.close()
        except Stranger as error:
            self.stranger(plain_ip(str(address[0])) if address else "", str(error))
            with shielded(1):
                await raw.close()
        except Exception as error:  # noqa: BLE001 - a broken handshake must not end the listener
            logging.getLogger(__name__).debug("inbound connection failed: %r", error)
            with shielded(1):
                await raw.close()


def is_keyed(connection: INetConn) -> bool:
    """Return True if a connection is encrypted with a key of the cluster."""
    return key_of(raw_connection(connection)) is not None


def raw_connection(connection: INetConn) -> RawConnection:
    """Return the connection below Noise and yamux."""
    secured = cast("Any", connection).muxed_conn.secured_conn
    return cast("RawConnection", secured.conn.read_writer.read_write_closer)


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


def remote_ip(connection: INetConn | INetStream) -> str | None:
    """Return the IP literal at the other end of a connection or stream."""
    remote = cast("Any", connection).muxed_conn.get_remote_address()
    return None if remote is None else plain_ip(str(remote[0]))


def plain_ip(host: str) -> str:
    """Return an IP literal without its zone, and as IPv4 if it is a mapped one."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
