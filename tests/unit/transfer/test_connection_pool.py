"""Connections that are kept, and connections to the first address that answers."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from aiohappyeyeballs import AddrInfoType

from spegel_py.routing.base import Peer
from spegel_py.transfer import connection_pool
from spegel_py.transfer.connection_pool import (
    MAX_IDLE,
    MAX_IDLE_PER_PEER,
    WINDOW,
    ConnectionPool,
    dial,
    window_of,
)
from tests.support.processes import until


class Host:
    """A peer that accepts connections, and keeps its side of each."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._server = self._stack.enter_context(
            socket.create_server(("127.0.0.1", 0), backlog=MAX_IDLE)
        )
        self.peer = Peer("a", *self._server.getsockname())

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return both sides of a new connection, our side first."""
        ours = self._stack.enter_context(socket.create_connection((self.peer.host, self.peer.port)))
        theirs, _ = self._server.accept()
        return ours, self._stack.enter_context(theirs)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host()) as made:
        yield made


async def test_the_connection_used_last_is_taken_first(host: Host) -> None:
    """So unneeded connections run out."""
    with closing(ConnectionPool()) as pool:
        (one, _), (other, _) = host.connect(), host.connect()
        pool.keep(host.peer, one)
        pool.keep(host.peer, other)
        assert pool.take(host.peer) is other
        assert pool.take(host.peer) is one
        assert pool.take(host.peer) is None


@pytest.mark.parametrize("what", ["its end", "a byte"])
async def test_a_connection_on_which_something_came_is_closed(host: Host, what: str) -> None:
    """No request was sent, so the input is an end, or bytes that belong to no answer."""
    with closing(ConnectionPool()) as pool:
        (one, _), (other, theirs) = host.connect(), host.connect()
        pool.keep(host.peer, one)
        pool.keep(host.peer, other)
        theirs.sendall(b"x") if what == "a byte" else theirs.close()
        arrived = select.poll()
        arrived.register(other, select.POLLIN)
        assert arrived.poll(5000)
        assert pool.take(host.peer) is one
        assert other.fileno() == -1


async def test_idle_connections_are_closed_after_a_while(host: Host) -> None:
    """They are closed without another request."""
    with closing(ConnectionPool(keepalive=0.05)) as pool:
        sockets = [host.connect()[0] for _ in range(3)]
        for each in sockets:
            pool.keep(host.peer, each)
            await asyncio.sleep(0.02)

        async def all_closed() -> bool:
            return all(each.fileno() == -1 for each in sockets)

        await until(all_closed)
        assert len(pool) == 0


async def test_there_is_a_limit_for_each_peer_and_for_all(host: Host) -> None:
    """The connections that were idle for longest are closed."""
    with closing(ConnectionPool()) as pool:
        sockets = [host.connect()[0] for _ in range(MAX_IDLE_PER_PEER + 1)]
        for each in sockets:
            pool.keep(host.peer, each)
        assert [each.fileno() == -1 for each in sockets] == [True] + [False] * MAX_IDLE_PER_PEER
        for number in range(MAX_IDLE):
            pool.keep(Peer(str(number), host.peer.host, host.peer.port), host.connect()[0])
        assert len(pool) == MAX_IDLE
        assert pool.take(host.peer) is None


async def test_a_closed_pool_has_closed_all(host: Host) -> None:
    """Nothing is left open at the end."""
    pool, (ours, _) = ConnectionPool(), host.connect()
    pool.keep(host.peer, ours)
    pool.close()
    assert ours.fileno() == -1


async def test_an_address_that_does_not_answer_holds_up_little(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name's next address is tried soon after the first, not after its time-out (RFC 8305)."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(2):  # a full backlog drops a SYN, as a dead host does
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())

        async def addresses(_peer: Peer) -> list[AddrInfoType]:
            wheres = [full.getsockname(), (host.peer.host, host.peer.port)]
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)
                for where in wheres
            ]

        monkeypatch.setattr(connection_pool, "_addresses", addresses)
        async with asyncio.timeout(0.9):  # a SYN is sent again after 1 s
            sock = await dial(Peer("a", "some.name", 1))
        with sock:
            assert sock.getpeername() == (host.peer.host, host.peer.port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()


async def test_a_v6_literal_is_an_address() -> None:
    """With or without a name service."""
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        await dial(Peer("a", "::1", server.getsockname()[1])) as sock,
    ):
        assert sock.family is socket.AF_INET6


@pytest.mark.parametrize(
    "host", ["fe80::1%" + "a" * 64, "fe80::1%a..b", "a\x00b", "\ud800", "a" * 64 + ".example", ""]
)
async def test_a_text_that_is_no_host_is_an_oserror(host: str) -> None:
    """Whatever a peer's name is, connecting to it fails as for a host that is away."""
    with pytest.raises(OSError):  # noqa: PT011 - of any kind
        async with asyncio.timeout(20):
            (await dial(Peer("a", host, 1))).close()


async def test_the_kernel_buffers_no_more_of_a_near_peer_than_the_window(host: Host) -> None:
    """For a slow client it would grow to `net.ipv4.tcp_rmem`.

    That is tens of megabytes on some hosts.
    """
    with closing(await dial(host.peer)) as sock:
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert granted <= 2 * WINDOW  # Linux doubles it, for its own overhead (socket(7))


@pytest.mark.parametrize(
    ("round_trip", "rmem_max", "window"),
    [
        (0.0002, 4 * WINDOW, WINDOW),
        (0.002, 4 * WINDOW, WINDOW),
        (0.0002, 212_992, 212_992),
        (0.0006, 212_992, None),
        (0.1, 4 * WINDOW, None),
    ],
    ids=["a rack", "a region", "a usual host", "a usual host, far", "another continent"],
)
def test_a_window_is_bounded_only_where_it_slows_nothing_down(
    round_trip: float, rmem_max: int, window: int | None
) -> None:
    """A window limits the bytes of one round trip, so a distant peer needs a large one."""
    assert window_of(round_trip, rmem_max) == window
