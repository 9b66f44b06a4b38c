"""A TCP proxy with a limited rate, which makes a registry on this machine look far away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spegel_py.transfer.bucket import TokenBucket

PIECE = 64 * 1024
"""Bytes passed on at a time: 6 ms at 10 MB/s."""


class ThrottledProxy:
    """Forwards connections to a port of the loopback interface.

    All answers together are limited to `rate` bytes a second; requests are not limited.
    """

    def __init__(self, *, port: int, rate: float) -> None:
        self._port = port
        self._bucket = TokenBucket(rate=rate, burst=0.0)
        self._connections: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ThrottledProxy to port {self._port}, {len(self._connections)} connections>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Give the proxy's URL; at the end of the block all connections are closed."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            if self._connections:
                await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer), name="throttled connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_copy(reader, far_writer, None))
                    tasks.create_task(_copy(far_reader, writer, self._bucket))
            finally:
                far_writer.close()
        except* OSError:
            pass  # a side that hangs up ends the connection for the other side too
        finally:
            writer.close()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: TokenBucket | None
) -> None:
    """Copy one direction of a connection until its end, which is passed on as well."""
    while piece := await reader.read(PIECE):
        if bucket and (delay := bucket.pay(len(piece), time.monotonic())):
            await asyncio.sleep(delay)
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
