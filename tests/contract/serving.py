"""A server that sends one content to every client, as a node does: from a file, or from a peer."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from spegel_py.errors import PeerError, StoreUnavailable
from spegel_py.oci.range import ByteRange
from spegel_py.registry.middlewares import close_gently
from spegel_py.registry.server import serve
from spegel_py.store.file_access import FileContent
from spegel_py.transfer.base import ClientGone, Deadlines, PeerRequest, Sink
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender
from spegel_py.transfer.sink import ResponseSink
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


WAYS = {
    "sendfile": Way(),
    "file copied": Way(is_copying=True),
    "file over TLS": Way(is_tls=True),
    "splice": Way(is_relayed=True),
    "peer copied": Way(is_relayed=True, is_copying=True),
    "peer over TLS": Way(is_relayed=True, is_tls=True),
}


@dataclass
class Server:
    """The server as it runs; `ended` is how each transfer so far did, None for well."""

    port: int = 0
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
async def relayed(way: Way, fake: FakePeer) -> AsyncIterator[Send]:
    """Send what the peer sends."""
    async with (
        HTTPUpstream(deadlines=DEADLINES, is_copying=way.is_copying) as upstream,
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
    server = Server()

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
    async with AsyncExitStack() as stack:
        if way.is_tls:
            server.port, server.tls = await _serve_tls(app, folder, stack)
        else:
            server.port = await stack.enter_async_context(serve(app, "127.0.0.1:0", drain=0.4))
        yield server


async def _serve_tls(
    app: web.Application, folder: Path, stack: AsyncExitStack
) -> tuple[int, ssl.SSLContext]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_certificate(folder)).start()
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return int(runner.addresses[0][1]), trusting


def _certificate(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirror")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
