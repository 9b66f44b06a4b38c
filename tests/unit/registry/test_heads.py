"""Heads that never end, and more connections than a port takes, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import web

from spegel_py.admin.admin_app import State, create_admin_app
from spegel_py.metrics import NodeMetrics
from spegel_py.registry import connection
from spegel_py.registry.connection import MAX_HEAD
from spegel_py.registry.connection_table import ConnectionLimits
from spegel_py.registry.server import serve
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import RawClient

ASK = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
METRICS = ASK.replace(b"/v2/", b"/metrics")
LARGE = bytes(range(251)) * 160_000  # more than kernels buffer


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a head to be complete within a fraction of a second."""
    monkeypatch.setattr(connection, "HEAD", 0.3)


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /v2/ HT", id="a part of a line"),
        pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-A: ", id="a part of a field"),
        pytest.param(ASK + b"GET /v2/ HTTP/1.1\r\nX-A: ", id="after a whole request"),
        pytest.param(ASK + b"GET /v2/ HTTP/1.1\r\n", id="after a whole request, a whole line"),
    ],
)
@pytest.mark.usefixtures("hasty")
async def test_a_head_that_does_not_end_is_hung_up(begun: bytes, node: Node) -> None:
    """However often a byte of it comes; the time counts from its first byte, or from the
    connection.
    """
    client = await node.client()
    began = asyncio.get_running_loop().time()
    client.writer.write(begun)

    async def drip() -> None:
        while begun:
            await asyncio.sleep(0.05)
            client.writer.write(b"a")

    dripping = asyncio.create_task(drip())
    answer = await client.end()
    dripping.cancel()
    assert asyncio.get_running_loop().time() - began < 5
    assert answer.count(b"HTTP/1.1 200") == begun.count(ASK)


@pytest.mark.parametrize("size", [1000, 8000], ids=["too many fields", "fields that are too long"])
async def test_what_a_refused_head_held_is_let_go_of(size: int, node: Node) -> None:
    """At once, while the connection lingers, and without the garbage collector."""
    fields = b"".join(
        b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(1_000_000 // size)
    )
    clients = [await node.client() for _ in range(20)]
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for client in clients:
            client.writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + fields)
            assert b" 431 " in await client.reader.readline()
            client.writer.transport.abort()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held < 1_000_000


@pytest.mark.usefixtures("hasty")
async def test_an_idle_connection_is_kept_between_requests(node: Node) -> None:
    """A client's next request may come much later than its head may take."""
    client = await node.client()
    for _ in range(2):
        assert (await client.send(ASK)).status == 200
        await asyncio.sleep(0.5)
    assert (await client.send(ASK)).status == 200


@pytest.mark.usefixtures("hasty")
async def test_a_body_and_a_transfer_have_their_own_time(start: NodeFactory) -> None:
    """A transfer goes on though the next head has begun; what it gives is whole."""
    async with start() as node:
        digest = node.store.add(LARGE)
        client = await node.client()
        client.writer.write(
            f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\nGET /v2".encode()
        )
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.8)
        assert await client.reader.readexactly(len(LARGE)) == LARGE
        assert await client.end() == b""


@pytest.mark.parametrize("size", [1000, 4000])
async def test_a_head_that_is_too_long_is_refused_before_it_ends(size: int, node: Node) -> None:
    """Its sum is bounded, not only its fields: of thousands of connections each may hold one."""
    client = await node.client()
    client.writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
    for _ in range(MAX_HEAD // size + 1):
        client.writer.write(b"X-A: " + b"a" * (size - 7) + b"\r\n")
    answer = await client.read()
    assert (answer.status, answer.error["code"]) == (431, "UNSUPPORTED")
    assert await client.end() == b""


async def test_many_requests_at_once_are_no_long_head(node: Node) -> None:
    """Pipelined requests are answered, however many bytes they are together."""
    client = await node.client()
    client.writer.write(ASK * 1000)
    for _ in range(1000):
        assert (await client.read()).status == 200


async def test_a_body_is_no_head() -> None:
    """A form may be longer than any head, in however many pieces it comes."""

    async def take(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application()
    app.router.add_post("/", take)
    async with serve(app, "127.0.0.1:0") as port:
        client = await RawClient.connect(port)
        size = 3 * MAX_HEAD
        client.writer.write(
            f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        for _ in range(0, size, 1024):
            client.writer.write(b"a" * 1024)
            await client.writer.drain()
        assert (await client.read()).body == str(size).encode()
        assert (await client.ask("POST", "/", "Content-Length: 2", body=b"ab")).body == b"2"
        client.close()


@asynccontextmanager
async def metrics_port(limits: ConnectionLimits) -> AsyncIterator[int]:
    async def state() -> State:
        return {"ready": True}

    async with serve(
        create_admin_app(render=NodeMetrics().render, state=state), "127.0.0.1:0", limits=limits
    ) as port:
        yield port


async def test_idle_connections_make_room_for_new_ones() -> None:
    """A port that has as many as it takes hangs up the one that has been idle for longest, and
    answers the new one.
    """
    async with metrics_port(ConnectionLimits(own=4, overall=4, per_address=4)) as port:
        clients = [await RawClient.connect(port) for _ in range(4)]
        assert (await clients[0].send(METRICS)).status == 200
        late = await RawClient.connect(port)
        assert (await late.send(METRICS)).status == 200
        assert await clients[1].end() == b""
        for client in (clients[0], clients[2], clients[3], late):
            assert (await client.send(METRICS)).status == 200
        for client in (*clients, late):
            client.close()


async def test_a_flood_of_connections_shuts_nobody_out() -> None:
    """Each of those that come after it is answered."""
    async with metrics_port(ConnectionLimits(own=16, overall=16, per_address=16)) as port:
        flood = [await RawClient.connect(port) for _ in range(200)]
        for _ in range(20):
            client = await RawClient.connect(port)
            assert (await client.send(METRICS)).status == 200
            client.close()
        for client in flood:
            client.close()


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


@pytest.mark.parametrize("loop", LOOPS)
def test_where_all_are_in_use_a_new_one_is_refused(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """It is hung up at once, so that its client goes elsewhere; an answer that ends makes room."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: pytest.fail(str(context)))
        runner.run(refuse_one())


async def refuse_one() -> None:
    """Have one connection in use, where there is room for one, and open another."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        has_begun.set()
        await may_end.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/v2/", wait)
    async with serve(
        app, "127.0.0.1:0", limits=ConnectionLimits(own=1, overall=1, per_address=1)
    ) as port:
        busy = await RawClient.connect(port)
        answer = asyncio.create_task(busy.send(ASK))
        await has_begun.wait()
        refused = await RawClient.connect(port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await refused.send(ASK)
        refused.close()
        assert not answer.done()
        may_end.set()
        assert (await answer).status == 200
        late = await RawClient.connect(port)
        assert (await late.send(ASK)).status == 200
        for client in (busy, late):
            client.close()


async def test_clients_that_were_sent_an_error_do_not_hold_the_port() -> None:
    """Their connections stay for a moment, so that they can read it; new ones go before them."""
    async with metrics_port(ConnectionLimits(own=4, overall=4, per_address=4)) as port:
        wrong = [await RawClient.connect(port) for _ in range(4)]
        for client in wrong:
            assert (await client.send(b"NO\r\n\r\n")).status == 400
        late = await RawClient.connect(port)
        assert (await late.send(METRICS)).status == 200
        for client in (*wrong, late):
            client.close()


async def test_a_head_that_was_refused_takes_no_memory(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error that tells of it does not keep all that was received."""
    errors = list[BaseException | None]()
    handle_error = connection.Connection.handle_error

    def seen(self: connection.Connection, *args: Any) -> web.StreamResponse:
        errors.append(args[2])
        return handle_error(self, *args)

    monkeypatch.setattr(connection.Connection, "handle_error", seen)
    client = await node.client()
    client.writer.write(b"GET /v2/ HTTP/1.1\r\nX-A: " + b"a" * 5000)
    assert (await client.read()).status == 431
    [error] = errors
    assert error is not None
    assert error.__traceback__ is None
