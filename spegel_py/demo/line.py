"""A slow line to a server on this machine: upstream is far away, and all who fetch there share what it gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spegel_py.demo.pace import Pace

PIECE = 64 * 1024
"""Bytes passed on at a time: 6 ms of a line of 10 MB/s."""


class Line:
    """Passes connections on to a port of the loopback interface; what comes back over all of them together is held to
    `rate` bytes a second."""

    def __init__(self, *, port: int, rate: float) -> None:
        self._port = port
        self._pace = Pace(rate=rate)
        self._calls: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Line to port {self._port} {self._pace!r} {len(self._calls)} calls>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Give the URL of the line's near end; all calls are cut off when the block is left."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for call in self._calls:
                call.cancel()
            if self._calls:
                await asyncio.wait(self._calls)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(self._carry(reader, writer), name="call over the slow line")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_pass_on(reader, far_writer, Pace(rate=0)))
                    tasks.create_task(_pass_on(far_reader, writer, self._pace))
            finally:
                far_writer.close()
        except* OSError:
            pass  # who hangs up ends the call for the other side too
        finally:
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: Pace) -> None:
    """Pass on what one side sends until it ends, and that it did."""
    while piece := await reader.read(PIECE):
        if delay := pace.delay(len(piece), time.monotonic()):
            await asyncio.sleep(delay)
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
