"""Streams of libp2p as the protocols here use them: read exactly, opened without waiting, and kept from one question
to the next."""

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
from spegel_py.routing.libp2p import compat

KEEP_STREAM = 30.0
"""Seconds for which a stream is kept for the next question; both sides' idle bound is 60 s."""

AT_ONCE = 16 * 1024
"""Bytes read at once: most messages have some dozens."""

T = TypeVar("T")


class Stream(Protocol):
    """What is asked of a stream here; py-libp2p's are such."""

    async def read(self, n: int | None = None) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class ProposedStream:
    """A stream that is used before the peer has agreed to its protocol: what is written first goes with the proposal,
    and the peer's agreement comes with its answer, which saves two round trips.

    multistream-select 1.0.0 has the initiator name itself and the protocol; the other side says both again, or `na`.
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
        """Return up to `n` bytes, all that are there by default. Raises PeerUnreachable where the peer does not speak
        the protocol."""
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
    """A stream's reading side, which knows whether the stream ended between two messages or broke off in one.

    It takes all that is there at once, since a read costs as much as a dozen messages.
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
        """Whether some of the message has come."""
        return self._has_begun or bool(self._ahead)

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, all that are there by default."""
        data = self._ahead or await self._stream.read(AT_ONCE)
        taken = bytes(data[:n])
        self._ahead = bytearray(data[len(taken) :])
        self._has_begun = self._has_begun or bool(taken)
        return taken

    async def read_exactly(self, n: int) -> bytes:
        """Return exactly `n` bytes; StreamError when the stream ends before."""
        buffer = bytearray()
        while len(buffer) < n:
            data = await self.read(n - len(buffer))
            if not data:
                raise StreamEOF
            buffer += data
        return bytes(buffer)


class StreamPool(Generic[T]):
    """Questions to peers over one protocol, each `timeout` seconds at most, over streams that are kept: at most `most`
    of them to one peer. With `is_known` every peer that is asked speaks it, so that a stream need not be negotiated
    first: one that does not would take the question for another proposal, and py-libp2p's host dies of some.

    Every exchange is brought to its end, since a write that is cancelled half-way leaves the connection's cipher out of
    step, and breaks all its streams: who asks may leave at any time.
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
        """Ask for callers while the block lasts; exchanges under way are given up at its end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def forget(self, peer: ID) -> None:
        """Drop the streams kept to a peer that is gone."""
        self._idle.pop(peer, None)

    async def exchange(self, peer: ID, use: Callable[[Stream], Awaitable[T]]) -> T:
        """Return what `use` makes of a stream to the peer. Raises the PeerError that it raises, PeerUnreachable for any
        other failure."""
        if self._nursery is None:
            raise PeerUnreachable("this node's libp2p side is not running")
        results: list[T] = []
        failures: list[PeerError] = []
        done = trio.Event()

        async def run() -> None:
            try:
                results.append(await self._exchange(peer, use))
            except* Exception as group:  # noqa: BLE001 - py-libp2p raises many kinds, and groups of them; the caller gets one
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
            except StreamError:  # the peer closed it meanwhile: once more on a fresh one
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
            with compat.shielded(1):
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
        for name, kept in list(
            self._idle.items()
        ):  # of those that are gone too; the other side closes them by itself
            if kept[-1][0] + KEEP_STREAM < now:
                del self._idle[name]
        kept = self._idle.setdefault(peer, [])
        kept.append((now, stream))
        if self._most is not None:
            del kept[: -self._most]


async def finish(stream: INetStream) -> None:
    """Say that this was all, and return once the peer, having read it, closes its side, or hangs up."""
    await cast("Any", stream).close_write()
    try:
        while await stream.read(AT_ONCE):
            pass
    except StreamError:
        return


def translated(error: Exception, peer: ID) -> PeerError:
    """Return what a caller is told of a failure, which may be a group of them: the first one of it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PeerError):
        return error
    if isinstance(error, trio.TooSlowError):
        return PeerUnreachable(f"{peer} did not answer in time")
    return PeerUnreachable(f"{peer} did not answer: {error!r}")
