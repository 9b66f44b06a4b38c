"""Bodies as clients see them, whichever way they come, and transfers of misbehaving clients."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.transfer import tls_sockets
from spegel_py.transfer.base import ClientGone, Sink
from tests.contract.serving import WAYS, Send, Server, Way, growing, local, relayed, serving
from tests.support.processes import until
from tests.unit.mirror.peers import FakePeer
from tests.unit.registry.raw import Answer, RawClient

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

DATA = os.urandom(1 << 20) * 8
RELAYED = [name for name, way in WAYS.items() if way.is_relayed]
LOCAL = [name for name, way in WAYS.items() if not way.is_relayed and not way.is_growing]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def ways(*names: str) -> Callable[[Any], Any]:
    """Run a test on these ways only."""
    return pytest.mark.parametrize("way", [WAYS[name] for name in names], ids=names)


@asynccontextmanager
async def content(
    way: Way, folder: Path, fake: FakePeer | None = None, **options: Any
) -> AsyncIterator[Server]:
    """Serve DATA."""
    async with AsyncExitStack() as stack:
        send: Send
        if way.is_relayed:
            send = await stack.enter_async_context(relayed(way, fake or FakePeer(DATA), folder))
        else:
            path = folder / "content"
            path.write_bytes(DATA)
            source = growing(path) if way.is_growing else local(way, path)
            send = await stack.enter_async_context(source)
        yield await stack.enter_async_context(serving(way, send, len(DATA), folder, **options))


async def ask(client: RawClient, *lines: str) -> Answer:
    return await client.ask("GET", "/", *lines)


async def test_the_connection_goes_on_after_a_body(way: Way, tmp_path: Path) -> None:
    """Bodies and ranges of all sizes follow each other on one connection with their own bytes."""
    async with content(way, tmp_path) as server:
        client = await server.client()
        for lines, expected in (
            ((), DATA),
            (("Range: bytes=5-9",), DATA[5:10]),
            (("Range: bytes=1000000-",), DATA[1_000_000:]),
            (("Range: bytes=-5000000",), DATA[-5_000_000:]),
            ((), DATA),
        ):
            answer = await ask(client, *lines)
            assert (answer.status, answer.body == expected) == (200, True)

        async def have_ended() -> (
            bool
        ):  # a client may have a body's last byte before its server knows
            return server.ended == [None] * 5

        await until(have_ended)
        client.close()


async def test_requests_may_be_sent_ahead(way: Way, tmp_path: Path) -> None:
    """Answers to requests sent at once come in order, none inside another."""
    async with content(way, tmp_path) as server:
        client = await server.client()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        for _ in range(3):
            assert (await client.read()).body == DATA
        client.close()


async def test_a_slow_client_gets_everything(way: Way, tmp_path: Path) -> None:
    """A client that pauses again and again, for less than it may, gets every byte."""
    async with content(way, tmp_path) as server:
        client = await server.client(buffer=4096)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        got = bytearray()
        async with asyncio.timeout(20):
            while len(got) < len(DATA):
                got += await client.reader.readexactly(min(400_000, len(DATA) - len(got)))
                await asyncio.sleep(0.01)
        assert got == DATA
        client.close()


async def test_a_client_that_stops_reading_is_cut_off(way: Way, tmp_path: Path) -> None:
    """After its timeout the transfer ends.

    The bytes that the client reads then are right, with a FIN behind them.
    """
    async with content(way, tmp_path, patience=0.2) as server:
        with await listener(server) as client:
            await until(lambda: ended(server, 1))
            assert isinstance(server.ended[0], ClientGone)
            body = await everything(client)
        assert DATA.startswith(body)
        assert len(body) < len(DATA)


@ways(*RELAYED)
@pytest.mark.parametrize("ending", ["fin", "rst", "stall", "trickle"])
async def test_a_peer_that_breaks_off_ends_the_body_with_a_fin(
    way: Way, tmp_path: Path, ending: Any
) -> None:
    """However the peer ends, the client gets all its bytes, and then a FIN, no reset."""
    fake = FakePeer(DATA, cut_at=3_000_000, ending=ending)
    async with content(way, tmp_path, fake) as server:
        with await listener(server) as client:
            body = await everything(client)
    assert DATA.startswith(body)
    if ending != "rst":  # which destroys what was on its way
        assert len(body) >= 3_000_000


@ways(*LOCAL)
async def test_content_that_is_deleted_meanwhile_is_sent_to_its_end(
    way: Way, tmp_path: Path
) -> None:
    """Garbage collection unlinks a blob: an open descriptor outlives that."""
    async with content(way, tmp_path) as server:
        client = await server.client(buffer=4096)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.started.wait()
        (tmp_path / "content").unlink()
        assert (await client.read()).body == DATA
        client.close()


@ways(*LOCAL)
async def test_content_that_is_too_short_ends_with_a_fin(way: Way, tmp_path: Path) -> None:
    """A file that lost its end to a disk fault gives the rest of its bytes, and then a FIN."""
    async with content(way, tmp_path) as server:
        os.truncate(tmp_path / "content", 2_000_000)
        with await listener(server) as client:
            body = await everything(client)
        assert isinstance(server.ended[0], StoreUnavailable)
    assert body == DATA[:2_000_000]


async def test_the_end_of_the_server_cuts_with_a_fin(way: Way, tmp_path: Path) -> None:
    """A transfer that outlives the drain time is cancelled.

    Its client gets a short body and a FIN.
    """
    async with content(way, tmp_path) as server:
        client = await listener(server)
        await server.started.wait()
    with client:
        body = await everything(client)
    assert DATA.startswith(body)
    assert len(body) < len(DATA)


@ways("sendfile", "file over TLS", "splice", "peer with TLS", "peer with TLS over TLS")
@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
async def test_a_client_that_leaves_is_noticed_at_once(
    way: Way, tmp_path: Path, is_reset: bool
) -> None:
    """The transfer waits for the client or, relayed, for a stalled peer. It ends within 10 ms."""
    fake = FakePeer(DATA, cut_at=4_000_000, ending="stall")
    took = []
    async with content(way, tmp_path, fake) as server:
        for number in range(10):
            server.started.clear()
            client = await listener(server)
            await server.started.wait()
            await asyncio.sleep(0.02)
            if is_reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            began = time.monotonic()
            client.close()
            await until(lambda number=number: ended(server, number + 1), pause=0.001)  # type: ignore[misc]
            took.append(time.monotonic() - began)
    assert min(took) < 0.01  # the best, since others use this machine too


async def test_what_is_sent_past_the_transport_does_not_overtake_it(
    way: Way, tmp_path: Path
) -> None:
    """Bytes written before, through and after a lease arrive in that order."""

    async def send(sink: Sink, _start: int, _length: int) -> None:
        await sink.write(b"a" * 3_000_000)
        async with sink.lease() as lease:
            assert lease is not None
            while lease.moved < 1000:
                try:
                    lease.moved += lease.write(memoryview(b"b" * (1000 - lease.moved)))
                except BlockingIOError:
                    await asyncio.sleep(0.001)
        await sink.write(b"c" * 1000)
        assert sink.sent == 3_002_000

    async with serving(way, send, 3_002_000, tmp_path) as server:
        client = await server.client(buffer=4096)
        assert (await ask(client)).body == b"a" * 3_000_000 + b"b" * 1000 + b"c" * 1000
        client.close()


async def test_small_packets_are_sent_at_once(way: Way, tmp_path: Path) -> None:
    """A range's last bytes do not wait for an acknowledgement (Nagle).

    That would cost three quarters of the speed.
    """

    async def send(sink: Sink, _start: int, length: int) -> None:
        async with sink.lease() as lease:
            assert lease is not None
            with socket.socket(fileno=os.dup(lease.fd)) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await sink.write(bytes(length))

    async with serving(way, send, 10, tmp_path) as server:
        client = await server.client()
        assert (await ask(client)).body == bytes(10)
        client.close()


async def listener(server: Server) -> socket.socket:
    """Return a connection that has asked, and that reads nothing by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect(("127.0.0.1", server.port))
    client.setblocking(False)
    if server.tls is not None:
        client = await tls_sockets.encrypted(client, server.tls)
    await tls_sockets.send_all(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


async def everything(client: socket.socket) -> bytes:
    """Return the body up to the end of the connection. Raises ConnectionResetError after an RST."""
    answer = bytearray()
    async with asyncio.timeout(20):
        while piece := await tls_sockets.receive(client, 1 << 20):
            answer += piece
    return bytes(answer.partition(b"\r\n\r\n")[2])


async def ended(server: Server, count: int) -> bool:
    return len(server.ended) == count
