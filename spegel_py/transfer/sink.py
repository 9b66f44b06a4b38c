"""The Sink port over aiohttp's server: it keeps heads and keep-alive, and its socket can be lent for the body.

What moves through the lent socket aiohttp does not see, and it need not: it does not hold a body against its
Content-Length at the end. Who sends must close the connection after a body that ended short.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from spegel_py.transfer.base import ClientGone, ClientWaits, Loan, Sink


class ResponseSink(Sink):
    """Takes the body of a prepared response; a client may take `timeout` seconds for one piece."""

    def __init__(
        self, *, request: web.BaseRequest, response: web.StreamResponse, timeout: float
    ) -> None:
        self._request = request
        self._response = response
        self._timeout = timeout
        self._written = 0
        self._waits = ClientWaits()
        self._loans: list[Loan] = []

    def __repr__(self) -> str:
        return f"<ResponseSink sent={self.sent}>"

    @property
    def sent(self) -> int:
        return self._written + sum(loan.moved for loan in self._loans)

    @property
    def waited(self) -> float:
        """Seconds for which the client was waited for so far."""
        now = time.monotonic()
        return self._waits.at(now) + sum(loan.waits.at(now) for loan in self._loans)

    @property
    def taken(self) -> int:
        """How many bytes of the body have reached the client: what was sent may wait in the socket."""
        return max(0, self.sent - _queued(self._request.transport))

    def drop(self) -> None:
        """Close without waiting for the client to take what is queued here.

        The kernel still delivers what it has, with a FIN behind it: a runtime that was only stopped for a while sees
        a short body, and resumes.
        """
        if self._request.transport is not None:
            self._request.transport.abort()

    async def write(self, data: bytes) -> None:
        async with self._patience():
            await self._response.write(data)
        self._written += len(data)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Loan | None]:
        fd = await self._dup()
        if fd is None:
            yield None
            return
        loan = Loan(fd=fd, patience=self._timeout)
        self._loans.append(loan)
        try:
            yield loan
        finally:
            os.close(fd)  # until then nobody's close of the connection reaches the client

    async def _dup(self) -> int | None:
        """Return a descriptor of the socket with nothing queued before it; None over TLS, or where none is left."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client left")
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("sslcontext") is not None:
            return None
        await self._flush(transport)
        try:
            return os.dup(
                sock.fileno()
            )  # the transport may close its own at any time, and the number be used again
        except OSError:
            return None

    async def _flush(self, transport: asyncio.Transport) -> None:
        """Wait until the kernel has all that was written: what is sent past the transport must not overtake it."""
        if not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)  # has drain() wait until nothing is left
        try:
            async with self._patience():
                while transport.get_write_buffer_size():
                    if transport.is_closing():
                        raise ClientGone("the client left")
                    await asyncio.sleep(0)  # uvloop writes at the end of an iteration
                    await self._request.writer.drain()
        finally:
            transport.set_write_buffer_limits()

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Bound a wait for the client, and count it."""
        self._waits = self._waits.began(time.monotonic())
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            self.drop()
            raise ClientGone("the client stopped reading") from error
        except ConnectionError as error:
            raise ClientGone("the client left") from error
        finally:
            self._waits = self._waits.ended(time.monotonic())


def _queued(transport: asyncio.Transport | None) -> int:
    """Return how many bytes the kernel keeps for a client that has not acknowledged them; 0 where it cannot tell."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return 0
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)
