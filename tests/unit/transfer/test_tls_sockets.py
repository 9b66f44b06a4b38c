"""Sockets to peers: many records at once, ends, and handshakes that fail."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spegel_py.transfer import tls_sockets
from tests.support.certificates import Authority, contexts

DATA = os.urandom(1 << 20)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    for each in (near, far):
        each.setblocking(False)
    yield near, far
    near.close()
    far.close()


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return contexts(Authority().write(tmp_path_factory.mktemp("tls")))


async def connected(
    pair: tuple[socket.socket, socket.socket], ends: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[ssl.SSLSocket, asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a socket with TLS, and the streams of its peer."""
    near, far = pair
    accepting = asyncio.create_task(_accept(far, ends[0]))
    sock = await tls_sockets.encrypted(near, ends[1])
    return sock, *await accepting


async def _accept(
    far: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, far, ssl=context)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def test_a_slow_peer_gets_everything(
    pair: tuple[socket.socket, socket.socket], ends: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    sock, reader, writer = await connected(pair, ends)
    sending = asyncio.create_task(tls_sockets.send_all(sock, DATA))
    await asyncio.sleep(0.02)
    assert not sending.done()
    assert await reader.readexactly(len(DATA)) == DATA
    await sending
    writer.transport.abort()
    sock.close()


async def test_records_that_are_there_are_received_together(
    pair: tuple[socket.socket, socket.socket], ends: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A call returns more than one record of 16 KiB, and then says that nothing is there."""
    sock, _, writer = await connected(pair, ends)
    with pytest.raises(BlockingIOError):
        tls_sockets.receive_now(sock, 10)
    writer.write(DATA[:100_000])
    await writer.drain()
    await asyncio.sleep(0.05)
    assert tls_sockets.receive_now(sock, 40_000) == DATA[:40_000]
    assert tls_sockets.receive_now(sock, 1 << 20) == DATA[40_000:100_000]
    writer.transport.abort()
    await asyncio.sleep(0.01)
    assert tls_sockets.receive_now(sock, 10) == b""
    sock.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["HTTP", "end"])
async def test_a_handshake_that_fails_closes_the_socket(
    pair: tuple[socket.socket, socket.socket],
    ends: tuple[ssl.SSLContext, ssl.SSLContext],
    answer: bytes,
) -> None:
    near, far = pair
    far.sendall(answer)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match=r"SSL|EOF"):
        await tls_sockets.encrypted(near, ends[1])
    assert near.fileno() == -1
    with suppress(ConnectionResetError):  # it did not read all
        while far.recv(1 << 16):  # its hello, and then the end
            pass


async def test_a_cancelled_handshake_closes_the_socket(
    pair: tuple[socket.socket, socket.socket],
    ends: tuple[ssl.SSLContext, ssl.SSLContext],
    tmp_path: Path,
) -> None:
    near, far = pair
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await tls_sockets.encrypted(near, ends[1])
    while far.recv(1 << 16):
        pass
