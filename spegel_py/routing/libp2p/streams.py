"""Streams of libp2p as the protocols here use them: read exactly, and kept from one question to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID

from spegel_py.errors import PeerError, PeerUnreachable
from spegel_py.routing.libp2p import compat

KEEP_STREAM = 30.0
"""Seconds for which a stream is kept for the next question; both sides' idle bound is 60 s."""

AT_ONCE = 16 * 1024
"""Bytes read at once: most messages have some dozens."""

T = TypeVar("T")


class MessageReader:
    """A stream's reading side, which knows whether the stream ended between two messages or broke off in one.

    It takes all that is there at once, since a read costs as much as a dozen messages.
    """

    def __init__(self, stream: INetStream) -> None:
        compat.release_in_bulk(stream)
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


class Exchanges(Generic[T]):
    """Questions to peers over one protocol, each `timeout` seconds at most, over streams that are kept: that saves the
    negotiation, two thirds of the cost. At most `most` of them to one peer.

    Every exchange is brought to its end, since a write that is cancelled half-way leaves the connection's cipher out of
    step, and breaks all its streams: who asks may leave at any time.
    """

    def __init__(self, host: BasicHost, protocol: TProtocol, *, timeout: float, most: int | None = None) -> None:
        self._host = host
        self._protocol = protocol
        self._timeout = timeout
        self._most = most
        self._idle: dict[ID, list[tuple[float, INetStream]]] = {}
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

    async def ask(self, peer: ID, use: Callable[[INetStream], Awaitable[T]]) -> T:
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

    async def _exchange(self, peer: ID, use: Callable[[INetStream], Awaitable[T]]) -> T:
        if (kept := self._take(peer)) is not None:
            try:
                with trio.fail_after(self._timeout):
                    return await self._over(peer, kept, use)
            except StreamError:  # the peer closed it meanwhile: once more on a fresh one
                pass
        with trio.fail_after(self._timeout):
            stream = await self._host.new_stream(peer, [self._protocol])
            return await self._over(peer, stream, use)

    async def _over(self, peer: ID, stream: INetStream, use: Callable[[INetStream], Awaitable[T]]) -> T:
        try:
            result = await use(stream)
        except BaseException:
            with compat.shielded(1):
                await stream.reset()
            raise
        self._keep(peer, stream)
        return result

    def _take(self, peer: ID) -> INetStream | None:
        kept = self._idle.pop(peer, [])
        fresh = [(since, stream) for since, stream in kept if trio.current_time() - since < KEEP_STREAM]
        if not fresh:
            return None
        if fresh[:-1]:
            self._idle[peer] = fresh[:-1]
        return fresh[-1][1]

    def _keep(self, peer: ID, stream: INetStream) -> None:
        now = trio.current_time()
        for name, kept in list(self._idle.items()):  # of those that are gone too; the other side closes them by itself
            if kept[-1][0] + KEEP_STREAM < now:
                del self._idle[name]
        kept = self._idle.setdefault(peer, [])
        kept.append((now, stream))
        if self._most is not None:
            del kept[: -self._most]


def translated(error: Exception, peer: ID) -> PeerError:
    """Return what a caller is told of a failure, which may be a group of them: the first one of it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PeerError):
        return error
    if isinstance(error, trio.TooSlowError):
        return PeerUnreachable(f"{peer} did not answer in time")
    return PeerUnreachable(f"{peer} did not answer: {error!r}")
