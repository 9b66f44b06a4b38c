"""Sinks whose client is in the test: bytes in memory, or a real connection with a reader."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from spegel_py.transfer.base import ClientGone, Sink, SocketLease


class MemorySink(Sink):
    """Takes bytes into memory, and leases nothing; leaves after `limit` bytes."""

    def __init__(self, limit: int | None = None) -> None:
        self.taken = bytearray()
        self._limit = limit

    @property
    def sent(self) -> int:
        return len(self.taken)

    async def write(self, data: bytes) -> None:
        if self._limit is not None and self.sent + len(data) > self._limit:
            raise ClientGone("enough")
        self.taken += data

    async def close(self) -> None:
        """Nothing is on its way."""


class SocketSink(Sink):
    """A connection over loopback, which can be leased.

    Its client leaves after `limit` bytes, if any.
    """

    def __init__(self, sock: socket.socket, client: socket.socket, limit: int | None) -> None:
        self.taken = bytearray()
        self._sock = sock
        self._written = 0
        self._leases: list[SocketLease] = []
        self._reading = asyncio.ensure_future(self._read(client, limit))

    @classmethod
    def connect(cls, limit: int | None = None) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            sock, _ = server.accept()
        for each in (sock, client):
            each.setblocking(False)
        return cls(sock, client, limit)

    @property
    def sent(self) -> int:
        return self._written + sum(lease.moved for lease in self._leases)

    async def write(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except ConnectionError as error:
            raise ClientGone("the client left") from error
        self._written += len(data)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[SocketLease | None]:
        lease = SocketLease(fd=os.dup(self._sock.fileno()), timeout=5.0)
        self._leases.append(lease)
        try:
            yield lease
        finally:
            os.close(lease.fd)

    async def close(self) -> None:
        """End the connection; `taken` is all that its client got then."""
        self._sock.close()
        await self._reading

    async def _read(self, client: socket.socket, limit: int | None) -> None:
        loop = asyncio.get_running_loop()
        with client:
            while limit is None or len(self.taken) < limit:
                piece = await loop.sock_recv(client, 65536)
                if not piece:
                    return
                self.taken += piece


class SeenSink(SocketSink):
    """A connection whose bytes are all `seen`: half a megabyte is leased, the rest written."""

    def __init__(self, sock: socket.socket, client: socket.socket, limit: int | None) -> None:
        super().__init__(sock, client, limit)
        self.seen = bytearray()

    async def write(self, data: bytes) -> None:
        self.seen += data
        await super().write(data)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[SocketLease | None]:
        async with super().lease() as lease:
            assert lease is not None
            lease.observer, lease.max_bytes = self.seen.extend, 500_000
            yield lease
            assert lease.moved <= lease.max_bytes

    async def close(self) -> None:
        await super().close()
        assert self.seen == self.taken
