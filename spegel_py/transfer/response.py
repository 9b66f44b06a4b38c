"""A peer's answer under way: its body is read, copied, or moved by the kernel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from spegel_py.errors import PeerRefused, PeerUnreachable
from spegel_py.transfer.base import Deadlines, PeerAnswer, Sink
from spegel_py.transfer.exchange import HTTPExchange, ResponseHead
from spegel_py.transfer.splicer import Splicer
from spegel_py.transfer.stall_detector import StallDetector
from spegel_py.transfer.tls_sockets import receive_now

PIECE = 256 * 1024
"""Bytes read at once where a body is copied."""

MAX_INLINE = 256 * 1024
"""Bytes of the largest body that the event loop copies: cheaper than a pipe and a thread."""


class HTTPResponse:
    """The UpstreamResponse port over a socket; without a `splicer` bodies are copied.

    The socket belongs to the caller. It may be used again if `is_over`, else the caller closes it.
    """

    answer: PeerAnswer

    def __init__(
        self,
        *,
        sock: socket.socket,
        exchange: HTTPExchange,
        head: ResponseHead,
        deadlines: Deadlines,
        splicer: Splicer | None,
    ) -> None:
        self._sock = sock
        self._exchange = exchange
        self.head = head
        self._splicer = splicer
        self._rest = head.rest
        self._unread = 0 if head.length is None else head.length - len(head.rest)
        self._detector = StallDetector(deadlines=deadlines, left=self._unread)

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.head.status} unread={self._unread}>"

    @property
    def is_over(self) -> bool:
        """Whether the body was received to its end, and the connection may be used again."""
        return self.head.is_kept and self._unread == 0

    @property
    def waited(self) -> float:
        return self._detector.waited

    async def read(self) -> bytes:
        body = bytearray()
        async for piece in self._pieces():
            body += piece
        return bytes(body)

    async def send(self, sink: Sink) -> None:
        if self._splicer is not None and self._unread > MAX_INLINE:
            if rest := self._take_rest():
                await sink.write(rest)  # before the socket is lent, which keeps the order
            async with sink.lease() as lease:
                if lease is not None:
                    await self._splicer.splice(
                        self._sock, min(self._unread, lease.max_bytes), lease, self._detector
                    )
                    self._unread -= lease.moved
        async for piece in self._pieces():
            await sink.write(piece)

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Yield the rest of the body."""
        if self.head.length is None:
            async for piece in self._chunks():
                yield piece
            return
        if rest := self._take_rest():
            yield rest
        while self._unread > 0:
            piece = await self._receive(min(PIECE, self._unread))
            self._unread -= len(piece)
            yield piece
            await asyncio.sleep(0)  # a fast peer must not occupy the loop

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Yield the body without its chunks' frames; its length must be the answer's."""
        missing = self._detector.left = self.answer.length
        body, is_last = self._exchange.decode(b"")
        while True:
            missing -= len(body)
            if missing < 0 or (is_last and missing):
                raise PeerRefused(
                    "the body is not as long as the peer said", status=self.head.status
                )
            if body:
                yield body
            if is_last:
                return
            body, is_last = self._exchange.decode(await self._receive(PIECE))

    async def _receive(self, size: int) -> bytes:
        while True:
            try:
                piece = receive_now(self._sock, size)
            except BlockingIOError:
                await self._detector.wait(self._sock)
                continue
            except OSError as error:
                raise PeerUnreachable(f"the peer broke off: {error.strerror}") from error
            if not piece:
                raise PeerUnreachable("the peer broke off in the middle of the body")
            self._detector.record(len(piece))
            return piece

    def _take_rest(self) -> bytes:
        """Return the body's bytes that came with the head, once."""
        rest, self._rest = self._rest, b""
        return rest[: self.head.length]
