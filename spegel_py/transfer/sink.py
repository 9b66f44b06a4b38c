"""The Sink port over aiohttp's server, which keeps heads and keep-alive, and leases its socket.

aiohttp does not see the bytes that move through the leased socket. It need not, since it does not
compare a body with its Content-Length at the end. The caller must close the connection after a body
that ended short.
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
from typing import TYPE_CHECKING

from aiohttp import web

from spegel_py.transfer.base import ClientGone, ClientWaits, Sink, SocketLease

if TYPE_CHECKING:
    from spegel_py.transfer.tls_transport import TlsTransport


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
        self._leases: list[SocketLease] = []

    def __repr__(self) -> str:
        return f"<ResponseSink sent={self.sent}>"

    @property
    def sent(self) -> int:
        return self._written + sum(lease.moved for lease in self._leases)

    @property
    def waited(self) -> float:
        """Seconds of waiting for the client so far."""
        now = time.monotonic()
        return self._waits.at(now) + sum(lease.waits.at(now) for lease in self._leases)

    @property
    def taken(self) -> int:
        """Bytes of the body that reached the client: sent bytes may still wait in the socket."""
        return max(0, self.sent - _queued(self._request.transport))

    def drop(self) -> None:
        """Close without waiting for the client to take the bytes queued here.

        The kernel still delivers its own bytes, with a FIN behind them. A runtime that was only
        stopped for a while sees a short body, and resumes.
        """
        if self._request.transport is not None:
            self._request.transport.abort()

    async def write(self, data: bytes) -> None:
        async with self._patience():
            await self._response.write(data)
        self._written += len(data)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[SocketLease | None]:
        fd = await self._dup()
        if fd is None:
            yield None
            return
        lease = SocketLease(fd=fd, timeout=self._timeout)
        if (tls := self._tls()) is not None:
            tls.lend()
            lease.seal = tls.seal
        self._leases.append(lease)
        try:
            yield lease
        finally:
            os.close(fd)  # before this no close of the connection reaches the client
            if tls is not None:
                tls.take_back(lease.sealed)

    def _tls(self) -> TlsTransport | None:
        """Return the transport if it encrypts."""
        transport = self._request.transport
        if transport is None or transport.get_extra_info("sslcontext") is None:
            return None
        from spegel_py.transfer.tls_transport import TlsTransport  # only nodes with TLS need it

        return transport if isinstance(transport, TlsTransport) else None

    async def _dup(self) -> int | None:
        """Return a descriptor of the flushed socket; None if no descriptor is left."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client left")
        sock = transport.get_extra_info("socket")
        if sock is None:
            return None
        await self._flush(transport)
        try:
            # the transport may close its own descriptor at any time, and the number be used again
            return os.dup(sock.fileno())
        except OSError:
            return None

    async def _flush(self, transport: asyncio.Transport) -> None:
        """Wait until the kernel has all written bytes: leased bytes must not overtake them."""
        if not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)  # makes drain() wait until nothing is left
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
        """Limit a wait for the client, and count it."""
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
    """Return the bytes that the client has not acknowledged to the kernel; 0 if that is unknown."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return 0
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)
