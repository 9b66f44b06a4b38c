"""A host that needs fewer messages and less work for a connection and a stream (traps 23 and 24).

The messages are those of py-libp2p and go-libp2p, and other nodes see no difference: protocols are
negotiated in one message each way, and this node's identify message is made once for all peers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import trio
import varint
from libp2p.abc import IMuxedConn, INetStream, IRawConnection, ISecureConn, ISecureTransport
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import _mk_identify_protobuf
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from spegel_py.routing.libp2p.closing import shielded
from spegel_py.routing.libp2p.lean_yamux import LeanYamux
from spegel_py.routing.libp2p.negotiation import AT_ONCE, NotAgreed, agree, propose
from spegel_py.routing.libp2p.speedups import ReadAhead

NEGOTIATION_TIMEOUT = 5.0
"""Seconds for a protocol negotiation: a healthy peer needs milliseconds, a starved one-core node
may need seconds."""
IDENTIFY_TIMEOUT = 10.0
"""Seconds for a peer's identify message (py-libp2p's own bound)."""
IDENTIFY_DELAYS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Seconds before each attempt: many nodes that start together on busy machines answer late."""
MAX_IDENTIFY = 64 * 1024
"""Largest identify message in bytes; one with a dozen protocols and addresses has 1 KiB."""
MAX_LISTED = 64
"""Addresses, and protocols, kept of an identify message: a node has a dozen protocols."""
KEPT_FOR = 7200
"""Seconds for which a peer's addresses are kept (py-libp2p's own bound)."""


class LeanUpgrader(TransportUpgrader):
    """Secures connections with Noise, and multiplexes them with yamux."""

    async def secure_outbound(self, raw: IRawConnection) -> ISecureConn:
        """Return the connection once the peer has proved its identity, whichever it is."""
        _, rest = await propose(raw, [TProtocol(NOISE)], _reading(raw))
        _read_ahead(raw).put_back(rest)
        # The handshake authenticates the peer in any case; None only skips the comparison.
        return await self._noise().secure_outbound(raw, cast("ID", None))

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        """Secure a connection that a peer has opened."""
        _, rest = await agree(raw_conn, [NOISE], _reading(raw_conn))
        _read_ahead(raw_conn).put_back(rest)
        return await self._noise().secure_inbound(raw_conn)

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Return the multiplexed connection over a secured one."""
        is_initiator = bool(cast("Any", conn).is_initiator)
        negotiated = (
            propose(conn, [TProtocol(YAMUX)], _reading(conn))
            if is_initiator
            else agree(conn, [YAMUX], _reading(conn))
        )
        _, rest = await negotiated
        if rest:
            cast("Any", conn)._fill(rest)
        return LeanYamux(conn, peer_id, is_initiator=is_initiator)

    def _noise(self) -> ISecureTransport:
        return self.security_multistream.transports[TProtocol(NOISE)]


class LeanHost(BasicHost):
    """A host with cheap streams and identify messages.

    Args:
        announce: returns the addresses to announce, each time anew.
    """

    def __init__(self, swarm: Swarm, *, announce: Callable[[], list[Multiaddr]]) -> None:
        self._announce = announce
        super().__init__(
            swarm, addrs_factory=lambda _: announce(), disable_identify_address_discovery=True
        )
        self._identify: tuple[object, bytes] = (None, b"")
        self.set_stream_handler(IDENTIFY, self._send_identify)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Return a stream on which the peer speaks one of the protocols. Raises StreamFailure."""
        stream = await self._network.new_stream(peer_id)
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                protocol, rest = await propose(
                    stream, list(protocol_ids), lambda: stream.read(AT_ONCE)
                )
        except BaseException as error:
            with shielded(1):
                await stream.reset()
            if isinstance(error, NotAgreed | StreamError | trio.TooSlowError):
                raise StreamFailure(f"no stream to {peer_id}: {error!r}") from error
            raise
        _put_back(stream, rest)
        stream.set_protocol(protocol)
        return stream

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        handlers = self.multiselect.handlers
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                protocol, rest = await agree(net_stream, handlers, lambda: net_stream.read(AT_ONCE))
        except (NotAgreed, StreamError, trio.TooSlowError):
            await net_stream.reset()
            return
        _put_back(net_stream, rest)
        net_stream.set_protocol(protocol)
        handler = handlers[protocol]
        if handler is not None:
            await handler(net_stream)

    # Identify

    async def _identify_peer(self, peer_id: ID, *, reason: str) -> None:
        """Ask a peer for its addresses and protocols, again while it is connected and silent.

        Without them this node names the peer to no other one.
        """
        for delay in IDENTIFY_DELAYS:
            await trio.sleep(delay)
            if not self._network.get_connections(peer_id):
                return
            if (message := await self._ask_identity(peer_id)) is not None:
                self._keep(peer_id, message)
                if self._network.get_connections(peer_id):
                    self._identified_peers[peer_id] = reason
                return

    async def _ask_identity(self, peer: ID) -> Identify | None:
        """Return a peer's identify message, None if it fails to send one."""
        try:
            with trio.fail_after(IDENTIFY_TIMEOUT):
                stream = await self.new_stream(peer, [IDENTIFY])
                message = Identify()
                message.ParseFromString(
                    await read_varint_prefixed_bytes_limited(cast("Any", stream), MAX_IDENTIFY)
                )
                await stream.close()
                return message
        except Exception:  # noqa: BLE001 - the peer may have left, or send anything
            return None

    def _keep(self, peer: ID, message: Any) -> None:
        """Keep the addresses and protocols that a peer gives for itself."""
        store = self.peerstore
        if addresses := _addresses(message.listen_addrs[:MAX_LISTED]):
            if store.has_peer(peer):
                store.clear_addrs(peer)
            store.add_addrs(peer, addresses, KEPT_FOR)
        if protocols := list(message.protocols[:MAX_LISTED]):
            store.set_protocols(peer, protocols)

    async def _send_identify(self, stream: INetStream) -> None:
        """Answer with this node's own message, and the address at which the peer is seen."""
        own = self._own_message()
        if (remote := stream.get_remote_address()) is not None:
            kind = "ip6" if ":" in remote[0] else "ip4"
            seen = Multiaddr(f"/{kind}/{remote[0]}/tcp/{remote[1]}").to_bytes()
            own += Identify(observed_addr=seen).SerializeToString()  # the parts merge
        await stream.write(bytes(varint.encode(len(own))) + own)
        await stream.close()

    def _own_message(self) -> bytes:
        """Return this node's own message, made anew when its addresses or protocols change."""
        addresses = tuple(address.to_bytes() for address in self._announce())
        known = (addresses, tuple(self.multiselect.handlers))
        if self._identify[0] != known:
            self._identify = (known, _mk_identify_protobuf(self, None).SerializeToString())
        return self._identify[1]


def _addresses(raw: Sequence[bytes]) -> list[Multiaddr]:
    found = []
    for each in raw:
        try:
            address = Multiaddr(each)
            str(address)  # py-multiaddr parses lazily
        except Exception:  # noqa: BLE001, S112 - any error means that the address is unusable
            continue
        found.append(address)
    return found


def _reading(connection: Any) -> Callable[[], Awaitable[bytes]]:
    """Return a function that reads the bytes that have come on a connection."""
    return lambda: cast("Awaitable[bytes]", connection.read())


def _read_ahead(raw: IRawConnection) -> ReadAhead:
    return cast("ReadAhead", cast("Any", raw).stream)


def _put_back(stream: INetStream, data: bytes) -> None:
    """Put bytes back that were read from a stream beyond the negotiation."""
    muxed = cast("Any", stream).muxed_stream
    buffer = muxed.conn.stream_buffers.get(muxed.stream_id)
    if data and buffer is not None:
        buffer[:0] = data
