"""Peers that behave, or misbehave in one way, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange, ContentRange
from spegel_py.routing.base import Peer

Ending = Literal["fin", "rst", "stall", "trickle"]


@dataclass
class FakePeer:
    """Answers every request with `data`, unless a field says otherwise, and keeps the requests."""

    default_tls: ClassVar[ssl.SSLContext | None] = None
    data: bytes = b""
    media_type: str | None = "application/octet-stream"
    digest: Digest | None = None
    status: int | None = None  # answer this instead
    silent: bool = False  # accept, and never answer
    delay: float = 0.0  # seconds before each answer
    rate: int | None = None  # bytes per second of a body
    ignores_range: bool = False
    extra_size: int = 0  # lie about the whole size by this much
    chunked: bool = False
    raw: bytes | None = None  # answer this instead of HTTP
    cut_at: int | None = None  # after so many bytes of the body, do `ending`
    ending: Ending = "fin"
    headers: dict[str, str] = field(default_factory=dict)
    on_body: Callable[[], None] = lambda: None  # called once the body's first bytes are out
    requests: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    hung_up: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # a connection was closed by the asker
    peer: Peer | None = None
    tls: ssl.SSLContext | None = None  # else `default_tls`

    @asynccontextmanager
    async def serve(self, name: str) -> AsyncIterator[Peer]:
        """Listen on an own port for as long as the context is open."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.ensure_future(self._talk(reader, writer)))

        tls = self.tls or self.default_tls
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        peer = self.peer = Peer(name, "127.0.0.1", port, has_tls=tls is not None)
        try:
            yield peer
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not await self._answer(head.decode(), reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            writer.close()

    async def _answer(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        line, *rest = head.rstrip().split("\r\n")
        fields: dict[str, list[str]] = {}
        for name, _, value in (entry.partition(":") for entry in rest):
            fields.setdefault(name.lower(), []).append(value.strip())
        self.requests.append((line, fields))
        if self.silent:
            await reader.read()
            self.hung_up.set()
            return False
        if self.raw is not None:
            writer.write(self.raw)
            await writer.drain()
            return False
        await asyncio.sleep(self.delay)
        answer, body = self._head(fields)
        writer.write(answer)
        if line.startswith("HEAD"):
            return True
        return await self._body(body, reader, writer)

    def _head(self, fields: dict[str, list[str]]) -> tuple[bytes, bytes]:
        status, body, extra = self.status or 200, self.data, dict(self.headers)
        size = len(self.data) + self.extra_size
        asked = ByteRange.parse(fields["range"][0]) if "range" in fields else None
        if asked is not None and self.status is None and not self.ignores_range:
            start, length = asked.resolve(len(self.data))
            status, body = 206, self.data[start : start + length]
            extra["Content-Range"] = str(ContentRange(start, length, size))
        if self.chunked:
            extra["Transfer-Encoding"] = "chunked"
        else:
            extra["Content-Length"] = str(len(body) + (self.extra_size if status == 200 else 0))
        if self.media_type:
            extra["Content-Type"] = self.media_type
        if self.digest:
            extra["Docker-Content-Digest"] = str(self.digest)
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in extra.items())]
        return "\r\n".join([*lines, "", ""]).encode(), body

    async def _body(
        self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if self.chunked:
            writer.write(f"{len(body):x}\r\n".encode())
            await self._slowly(body, self.rate or 50 * len(body), writer)
            writer.write(b"\r\n0\r\n\r\n")
            return True
        if self.rate is not None:
            await self._slowly(body, self.rate, writer)
            return True
        if self.cut_at is None or self.cut_at >= len(body):
            writer.write(body)
            await writer.drain()
            self.on_body()
            return True
        writer.write(body[: self.cut_at])
        await writer.drain()
        self.on_body()
        await self._end(body[self.cut_at :], reader, writer)
        return False

    async def _slowly(self, body: bytes, rate: int, writer: asyncio.StreamWriter) -> None:
        step = max(1, rate // 50)
        for at in range(0, len(body), step):
            writer.write(body[at : at + step])
            await writer.drain()
            await asyncio.sleep(0.02)

    async def _end(
        self, rest: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.ending == "rst":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif self.ending == "stall":
            await reader.read()
            self.hung_up.set()
        elif self.ending == "trickle":
            for byte in rest:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.01)
