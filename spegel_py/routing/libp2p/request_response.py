"""Short requests between nodes and their responses: `/spegel-py/flight/1.0.0`, and
`/spegel-py/replica/1.0.0` in the same form.

A message is a length (u16, big endian) and as many bytes: MAX_REQUEST of a request at most, and
MAX_RESPONSE of a response. A response of length 0 is a refusal. A stream carries one request after
the other and is kept for a while, since a new stream takes two more frames each way. The sender is
the peer that the Noise handshake of the connection authenticated.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from spegel_py.errors import PeerRefused
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE, RequestHandler
from spegel_py.routing.libp2p.streams import MessageReader, Stream, StreamPool

PROTOCOL = TProtocol("/spegel-py/flight/1.0.0")
REPLICAS = TProtocol("/spegel-py/replica/1.0.0")
TIMEOUT = 2.0
"""Seconds for one exchange, besides the caller's own deadline: a live peer responds in 4 ms, a
stopped one never."""
IDLE_TIMEOUT = 60.0
"""Seconds for which a peer may keep a stream open without a request."""
KEPT = 4
"""Streams kept to one peer: the layers of an image are requested at the same time."""

_LENGTH = struct.Struct(">H")


Responder = Callable[[str, bytes], Awaitable[bytes]]
"""Does the same as a RequestHandler on the Trio side, and may wait before it returns."""


def at_once(handler: RequestHandler) -> Responder:
    """Return a responder that never waits."""

    async def respond(peer: str, message: bytes) -> bytes:
        return handler(peer, message)

    return respond


class RequestResponseHandler:
    """Answers peers' requests with `respond`; `dropped` counts the malformed ones."""

    def __init__(self, respond: Responder, dropped: Callable[[str], None]) -> None:
        self._respond = respond
        self._dropped = dropped

    async def handle(self, stream: INetStream) -> None:
        """Answer every request of one stream. A message that is too long ends this stream only."""
        peer, reader = str(stream.muxed_conn.peer_id), MessageReader(stream)
        try:
            while True:
                reader.begin()
                with trio.fail_after(IDLE_TIMEOUT):
                    message = await receive(reader, MAX_REQUEST)
                response = framed(await self._response(peer, message))
                with trio.fail_after(TIMEOUT):
                    await stream.write(response)
        except trio.TooSlowError:
            await stream.reset()
        except PeerRefused:
            self._dropped("oversized-frame")
            await stream.reset()
        except StreamError:
            if reader.is_within:
                self._dropped("half-frame")
            await stream.close()

    async def _response(self, peer: str, message: bytes) -> bytes:
        try:
            return await self._respond(peer, message)
        except ValueError:
            self._dropped("malformed-question")
            return b""


class RequestResponseClient:
    """Sends requests to peers that speak a protocol of such messages."""

    def __init__(
        self, host: BasicHost, *, protocol: TProtocol = PROTOCOL, timeout: float = TIMEOUT
    ) -> None:
        self._streams: StreamPool[bytes] = StreamPool(
            host, protocol, timeout=timeout, most=KEPT, is_known=True
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RequestResponseClient]:
        """Send requests while the block lasts; exchanges under way are given up at its end."""
        async with self._streams.running():
            yield self

    async def request(self, peer: ID, message: bytes) -> bytes:
        """Return the response. Raises PeerRefused, PeerUnreachable."""

        async def exchange(stream: Stream) -> bytes:
            await stream.write(framed(message))
            return await receive(MessageReader(stream), MAX_RESPONSE)

        if not (response := await self._streams.exchange(peer, exchange)):
            raise PeerRefused(f"{peer} refuses this request", status=400)
        return response


def framed(message: bytes) -> bytes:
    """Return a message with its length."""
    return _LENGTH.pack(len(message)) + message


async def receive(reader: MessageReader, most: int) -> bytes:
    """Return the next message. Raises PeerRefused if it is longer than `most`, and StreamError."""
    (length,) = _LENGTH.unpack(await reader.read_exactly(_LENGTH.size))
    if length > most:
        raise PeerRefused(f"a message of {length} bytes", status=400)
    return await reader.read_exactly(length)
