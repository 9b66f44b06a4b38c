"""libp2p streams for the protocols here: read exactly, opened without waiting, and pooled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar, cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.utils import encode_delim

from spegel_py.errors import PeerError, PeerUnreachable
from spegel_py.routing.libp2p import closing

KEEP_STREAM = 30.0
"""Seconds for which a stream is kept for the next exchange; both sides' idle bound is 60 s."""

AT_ONCE = 16 * 1024
"""Bytes read at once: most messages have a few dozen."""

T = TypeVar("T")


class Stream(Protocol):
    """The methods needed of a stream; those of py-libp2p have them."""

    async def read(self, n: int | None = None) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class ProposedStream:
    """A stream used before the peer has agreed to its protocol, which saves two round trips.

    The first write carries the proposal too, and the peer's agreement comes with its response. In
    multistream-select 1.0.0 the initiator sends its own name and the protocol; the other side
    repeats both, or sends `na`.
    """

    def __init__(self, stream: INetStream, protocol: TProtocol) -> None:
        stream.set_protocol(protocol)
        self._stream = stream
        self._protocol = protocol
        self._proposal = encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(
            protocol.encode()
        )
        self._agreement = self._proposal
        self._ahead = b""

    async def write(self, data: bytes) -> None:
        proposal, self._proposal = self._proposal, b""
        await self._stream.write(proposal + data)

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, by default all that are there.

        Raises PeerUnreachable if the peer does not speak the protocol.
        """
        while self._agreement:
            if not (data := await self._stream.read(AT_ONCE)):
                raise StreamEOF
            self._ahead += data
            expected = self._agreement
            if not expected.startswith(self._ahead[: len(expected)]):
                raise PeerUnreachable(
                    f"{self._stream.muxed_conn.peer_id} does not speak {self._protocol}"
                )
            if len(self._ahead) >= len(expected):
                self._ahead, self._agreement = self._ahead[len(expected) :], b""
        if not self._ahead:
            return await self._stream.read(n)
        data, self._ahead = self._ahead[:n], self._ahead[len(self._ahead) if n is None else n :]
        return data

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()


class MessageReader:
    """Reads messages from a stream, and knows whether it ended between two messages or within one.

    It reads all waiting bytes at once, since a read costs as much as a dozen messages.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ahead = bytearray()
        self._has_begun = False

    def begin(self) -> None:
        """Expect another message."""
        self._has_begun = False

    @property
    def is_within(self) -> bool:
        """True if a part of the message has come."""
        return self._has_begun or bool(self._ahead)

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, by default all that are there."""
        data = self._ahead or await self._stream.read(AT_ONCE)
        taken = bytes(data[:n])
        self._ahead = bytearray(data[len(taken) :])
        self._has_begun = self._has_begun or bool(taken)
        return taken

    async def read_exactly(self, n: int) -> bytes:
        """Return exactly `n` bytes. Raises StreamError if the stream ends before."""
        buffer = bytearray()
        while len(buffer) < n:
            data = await self.read(n - len(buffer))
            if not data:
                raise StreamEOF
            buffer += data
        return bytes(buffer)


class StreamPool(Generic[T]):
    """Exchanges with peers over one protocol, on streams that are kept for the next exchange.

    Every exchange is brought to its end, even if its caller is cancelled. A write that is cancelled
    half-way leaves the connection's cipher out of step, which breaks all its streams.

    Args:
        timeout: seconds for one exchange.
        most: streams kept to one peer, None for any number.
        is_known: True if every peer asked speaks the protocol, so that it need not be negotiated
            first. A peer that does not would take the message for another proposal, and some
            proposals end py-libp2p's host.
    """

    def __init__(
        self,
        host: BasicHost,
        protocol: TProtocol,
        *,
        timeout: float,
        most: int | None = None,
        is_known: bool = False,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._timeout = timeout
        self._most = most
        self._is_known = is_known
        self._idle: dict[ID, list[tuple[float, Stream]]] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve callers while the block lasts; exchanges under way are given up at its end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def forget(self, peer: ID) -> None:
        """Drop the streams kept to a disconnected peer."""
        self._idle.pop(peer, None)

    async def exchange(self, peer: ID, use: Callable[[Stream], Awaitable[T]]) -> T:
        """Return the result of `use` on a stream to the peer.

        Raises the PeerError that `use` raises, and PeerUnreachable for any other failure.
        """
        if self._nursery is None:
            raise PeerUnreachable("this node's libp2p side is not running")
        results: list[T] = []
        failures: list[PeerError] = []
        done = trio.Event()

        async def run() -> None:
            try:
                results.append(await self._exchange(peer, use))
            except* Exception as group:  # noqa: BLE001 - py-libp2p raises many kinds, and groups
                failures.append(translated(group, peer))
            finally:
                done.set()

        self._nursery.start_soon(run)
        await done.wait()
        if not results:
            raise failures[0] if failures else PeerUnreachable(f"{peer} did not answer")
        return results[0]

    async def _exchange(self, peer: ID, use: Callable[[Stream], Awaitable[T]]) -> T:
        if (kept := self._take(peer)) is not None:
            try:
                with trio.fail_after(self._timeout):
                    return await self._over(peer, kept, use)
            except StreamError:  # the peer closed it: try again on a new stream
                pass
        with trio.fail_after(self._timeout):
            return await self._over(peer, await self._open(peer), use)

    async def _open(self, peer: ID) -> Stream:
        if self._is_known:
            return ProposedStream(await self._host.get_network().new_stream(peer), self._protocol)
        return await self._host.new_stream(peer, [self._protocol])

    async def _over(self, peer: ID, stream: Stream, use: Callable[[Stream], Awaitable[T]]) -> T:
        try:
            result = await use(stream)
        except BaseException:
            with closing.shielded(1):
                await stream.reset()
            raise
        self._keep(peer, stream)
        return result

    def _take(self, peer: ID) -> Stream | None:
        kept = self._idle.pop(peer, [])
        fresh = [
            (since, stream) for since, stream in kept if trio.current_time() - since < KEEP_STREAM
        ]
        if not fresh:
            return None
        if fresh[:-1]:
            self._idle[peer] = fresh[:-1]
        return fresh[-1][1]

    def _keep(self, peer: ID, stream: Stream) -> None:
        now = trio.current_time()
        # Drop old streams of all peers, gone ones too; the other side closes them by itself.
        for name, kept in list(self._idle.items()):
            if kept[-1][0] + KEEP_STREAM < now:
                del self._idle[name]
        kept = self._idle.setdefault(peer, [])
        kept.append((now, stream))
        if self._most is not None:
            del kept[: -self._most]


async def finish(stream: INetStream) -> None:
    """Close the writing side, and return once the peer has read everything and closes its side."""
    await cast("Any", stream).close_write()
    try:
        while await stream.read(AT_ONCE):
            pass
    except StreamError:
        return


def translated(error: Exception, peer: ID) -> PeerError:
    """Return the PeerError for a failure; of an exception group, for its first exception."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PeerError):
        return error
    if isinstance(error, trio.TooSlowError):
        return PeerUnreachable(f"{peer} did not answer in time")
    return PeerUnreachable(f"{peer} did not answer: {error!r}")
