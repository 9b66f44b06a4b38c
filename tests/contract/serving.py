"""A server that sends one content to every client, as a node does: from a file, or from a peer."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from spegel_py.errors import PeerError, StoreUnavailable
from spegel_py.oci.range import ByteRange
from spegel_py.registry.middlewares import close_gently
from spegel_py.registry.server import serve
from spegel_py.store.file_access import FileContent
from spegel_py.store.growing import GrowingFile
from spegel_py.transfer.base import ClientGone, Deadlines, PeerRequest, Sink
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.peer_tls import PeerTls, TlsMode
from spegel_py.transfer.sender import Sender
from spegel_py.transfer.sink import ResponseSink
from tests.support.certificates import Authority, contexts
from tests.unit.mirror.peers import FakePeer
from tests.unit.registry.raw import RawClient

DEADLINES = Deadlines(connect=5.0, first_byte=5.0, stall=0.3, rate_window=0.6)

Send = Callable[[Sink, int, int], Awaitable[None]]
"""Sends so many bytes from there on."""


@dataclass(frozen=True, slots=True)
class Way:
    """How bytes get to clients."""

    is_relayed: bool = False
    is_copying: bool = False
    is_tls: bool = False
    """The clients use TLS."""
    is_growing: bool = False
    """The file is still being written."""
    is_peer_tls: bool = False
    """The relayed peer uses TLS."""


WAYS = {
    "sendfile": Way(),
    "file copied": Way(is_copying=True),
    "file over TLS": Way(is_tls=True),
    "growing file": Way(is_growing=True),
    "growing file over TLS": Way(is_growing=True, is_tls=True),
    "splice": Way(is_relayed=True),
    "peer copied": Way(is_relayed=True, is_copying=True),
    "peer over TLS": Way(is_relayed=True, is_tls=True),
    "peer with TLS": Way(is_relayed=True, is_peer_tls=True),
    "peer with TLS over TLS": Way(is_relayed=True, is_tls=True, is_peer_tls=True),
}


@dataclass
class Server:
    """The server as it runs; `ended` is how each transfer so far did, None for well."""

    port: int
    tls: ssl.SSLContext | None = None
    ended: list[Exception | None] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, *, buffer: int = 1 << 16) -> RawClient:
        """Return a new connection, which reads `buffer` bytes ahead."""
        return RawClient(
            *await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, limit=buffer)
        )


@asynccontextmanager
async def local(way: Way, path: Path) -> AsyncIterator[Send]:
    """Send the file's bytes."""
    fd = os.open(path, os.O_RDONLY)
    content = FileContent(fd, path.stat().st_size)
    try:
        with Sender(is_copying=way.is_copying) as sender:
            yield lambda sink, start, length: sender.send(content, start, length, sink)
    finally:
        os.close(fd)


@asynccontextmanager
async def growing(path: Path) -> AsyncIterator[Send]:
    """Send the file's bytes while another file gets them, in pieces."""
    data, written = path.read_bytes(), path.with_name("growing")
    written.touch()
    fd = os.open(written, os.O_RDONLY)
    ingest = GrowingFile(fd=fd, total=len(data))

    async def write() -> None:
        with written.open("ab", buffering=0) as file:
            for at in range(0, len(data), 300_000):
                file.write(data[at : at + 300_000])
                ingest.notify(is_over=False)
                await asyncio.sleep(0.001)

    writing = asyncio.create_task(write())
    try:
        with Sender() as sender:
            yield lambda sink, start, length: sender.send_growing(ingest, start, length, sink)
    finally:
        writing.cancel()
        await asyncio.wait([writing])
        os.close(fd)


@asynccontextmanager
async def relayed(way: Way, fake: FakePeer, folder: Path) -> AsyncIterator[Send]:
    """Send what the peer sends."""
    tls = None
    if way.is_peer_tls:
        tls = PeerTls(Authority().write(folder / "peer"), mode=TlsMode.REQUIRE)
        fake.tls = contexts(folder / "peer")[0]
    async with (
        HTTPUpstream(deadlines=DEADLINES, tls=tls, is_copying=way.is_copying) as upstream,
        fake.serve("a") as peer,
    ):

        async def send(sink: Sink, start: int, length: int) -> None:
            request = PeerRequest(target="/x", range=ByteRange(start, start + length - 1))
            async with upstream.open(peer, request) as response:
                await response.send(sink)

        yield send


@asynccontextmanager
async def serving(
    way: Way, send: Send, size: int, folder: Path, *, patience: float = 10.0
) -> AsyncIterator[Server]:
    """Answer every request with the content of `size` bytes, or the range that is asked."""
    context = trusting = None
    if way.is_tls:
        context, trusting = contexts(Authority().write(folder / "server"))
    server = Server(0, trusting)

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = ByteRange.parse(request.headers.get("Range", ""))
        start, length = asked.resolve(size) if asked else (0, size)
        response = web.StreamResponse(headers={"Content-Length": str(length)})
        await response.prepare(request)
        sink = ResponseSink(request=request, response=response, timeout=patience)
        server.started.set()
        error: Exception | None = asyncio.InvalidStateError("cancelled")
        try:
            await send(sink, start, length)
            error = None
        except (PeerError, StoreUnavailable, ClientGone) as failure:
            error = failure
        finally:
            server.ended.append(error)
            if sink.sent < length:
                response.force_close()
        return response

    app = web.Application(middlewares=[close_gently])
    app.router.add_get("/", handle)
    tls = None if context is None else lambda: context
    async with serve(app, "127.0.0.1:0", drain=0.4, tls=tls) as server.port:
        yield server
