"""The steps of moves, on real sockets and files."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spegel_py.errors import PeerUnreachable, StoreUnavailable
from spegel_py.transfer.base import ClientGone, SocketLease
from spegel_py.transfer.moves import Move, Side, Waits
from spegel_py.transfer.pipes import Pipe
from spegel_py.transfer.sendfile import CannotSendfile, Sendfile
from spegel_py.transfer.splicer import Copy, Splice, can_splice

DATA = os.urandom(1 << 20) * 3


class Wire:
    """A connection over loopback: `near` does not block, `far` does."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.far = socket.create_connection(server.getsockname())
            self.near, _ = server.accept()
        self.near.setblocking(False)

    def reset(self) -> None:
        """Make the far side end with an RST."""
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.far.close()

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def client() -> Iterator[Wire]:
    with closing(Wire()) as wire:
        yield wire


@pytest.fixture
def peer() -> Iterator[Wire]:
    with closing(Wire()) as wire:
        yield wire


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "data").write_bytes(DATA)
    fd = os.open(tmp_path / "data", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["spliced", "copied"])
def passed_on(
    request: pytest.FixtureRequest, peer: Wire, pipe: Pipe
) -> Callable[[SocketLease, int], Move]:
    """Return a move of this many bytes from the peer."""

    def make(lent: SocketLease, length: int) -> Move:
        if request.param == "spliced":
            return Splice(peer=peer.near.fileno(), pipe=pipe, lease=lent, length=length)
        return Copy(peer=peer.near, lease=lent, length=length)

    return make


def lease(client: Wire) -> SocketLease:
    return SocketLease(fd=client.near.fileno(), timeout=1)


def run(move: Move) -> Side | None:
    """Step until a side is not ready, or all bytes are moved."""
    while move.left:
        if (side := move.step()) is not None:
            return side
    return None


def read(wire: Wire, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        got += wire.far.recv(count - len(got))
    return bytes(got)


def test_it_ends_with_the_side_that_is_not_ready(
    client: Wire, peer: Wire, file: int, passed_on: Callable[[SocketLease, int], Move]
) -> None:
    """Bytes are moved as far as both sides allow, and counted at once."""
    lent = lease(client)
    move = passed_on(lent, 20)
    peer.far.sendall(b"0123456789")
    assert run(move) is Side.SOURCE
    assert (move.left, lent.moved, move.received) == (10, 10, 10)
    peer.far.sendall(b"0123456789abc")
    assert run(move) is None
    assert (move.left, read(client, 20)) == (0, b"0123456789" * 2)
    assert peer.near.recv(10) == b"abc"  # nothing beyond the body is taken

    full = Sendfile(fd=file, start=0, lease=lease(client), length=len(DATA))
    client.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert run(full) is Side.CLIENT
    assert 0 < full.left < len(DATA)


def test_a_file_that_is_not_in_the_page_cache_is_left_to_a_thread_for_disks(
    client: Wire, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that would wait for a disk sends nothing, unless it may block."""

    def not_there(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", not_there)
    lent = lease(client)
    move = Sendfile(fd=file, start=7, lease=lent, length=250)
    assert move.step() is Side.DISK
    assert lent.moved == 0
    assert move.step(may_block=True) is None
    assert read(client, 250) == DATA[7:257]


def test_the_wait_for_a_source_is_counted_and_no_other() -> None:
    """Waits add up, the current one included. Waits for a client do not count as the source's."""
    waits = Waits().began(Side.SOURCE, 10.0)
    assert waits.source_at(12.5) == 2.5
    waits = waits.ended(13.0).began(Side.CLIENT, 14.0)
    assert waits.source_at(100.0) == 3.0
    assert waits.ended(100.0).began(Side.SOURCE, 101.0).source_at(102.0) == 4.0


def test_a_client_that_takes_nothing_for_too_long_is_given_up(client: Wire, file: int) -> None:
    """The timeout runs from the last byte that it took."""
    move = Sendfile(fd=file, start=0, lease=lease(client), length=10)
    assert move.check(100.0) == 1.0
    move.waits = Waits().began(Side.CLIENT, 100.0)
    assert move.check(100.75) == 0.25
    with pytest.raises(ClientGone):
        move.check(101.0)


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
def test_a_peer_that_breaks_off(
    client: Wire,
    peer: Wire,
    pipe: Pipe,
    passed_on: Callable[[SocketLease, int], Move],
    is_reset: bool,
) -> None:
    """The peer's end or reset is its error. With a FIN all its bytes have been passed on."""
    lent = lease(client)
    move = passed_on(lent, 100)
    peer.far.sendall(b"0123456789")
    peer.reset() if is_reset else peer.far.close()
    with pytest.raises(PeerUnreachable):
        run(move)
    assert pipe.held == 0
    assert is_reset or lent.moved == 10


def test_what_is_copied_is_seen_once_it_was_passed_on(client: Wire, peer: Wire) -> None:
    """If a client takes a part of the bytes, the observer sees that part, in order, and no more."""
    client.near.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024
    )  # smaller ones wait for the kernel's timers
    lent, seen, data = lease(client), bytearray(), DATA
    lent.observer = seen.extend
    move = Copy(peer=peer.near, lease=lent, length=len(data))
    sender = threading.Thread(target=peer.far.sendall, args=(data,))
    sender.start()
    got, waits = bytearray(), 0
    while move.left:
        if run(move) is Side.CLIENT:
            waits += 1
            assert lent.moved < move.received
            got += client.far.recv(1 << 20)
        assert len(seen) == lent.moved
        select.select([peer.near], [], [], 0.01)
    sender.join()
    got += read(client, len(data) - len(got))
    assert got == seen == data
    assert waits


def test_a_client_that_left(client: Wire, peer: Wire, pipe: Pipe, file: int) -> None:
    """A client's end is not taken for the peer's or the disk's.

    Bytes that nobody took stay, and are not seen.
    """
    client.reset()
    arrived = select.poll()
    arrived.register(client.near, select.POLLIN)
    assert arrived.poll(5000)
    peer.far.sendall(b"0123456789")
    with pytest.raises(ClientGone):
        run(Splice(peer=peer.near.fileno(), pipe=pipe, lease=lease(client), length=100))
    assert pipe.held == 10
    lent, seen = lease(client), bytearray()
    lent.observer = seen.extend
    peer.far.sendall(b"0123456789")
    with pytest.raises(ClientGone):
        run(Copy(peer=peer.near, lease=lent, length=100))
    assert not seen
    with pytest.raises(ClientGone):
        run(Sendfile(fd=file, start=0, lease=lease(client), length=len(DATA)))


def test_a_file_that_ends_early(client: Wire, file: int) -> None:
    """A file shorter than it should be is the store's error, once its bytes were sent."""
    move = Sendfile(fd=file, start=len(DATA) - 10, lease=lease(client), length=20)
    with pytest.raises(StoreUnavailable):
        run(move)
    assert read(client, 10) == DATA[-10:]


def test_a_disk_that_fails_is_the_stores_error(
    client: Wire, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO is no error of the client."""

    def broken(*_: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "sendfile", broken)
    with pytest.raises(StoreUnavailable):
        run(Sendfile(fd=file, start=0, lease=lease(client), length=10))


def test_a_file_the_kernel_cannot_send(client: Wire) -> None:
    """A file that sendfile cannot send is recognised before the first byte, and copied then."""
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        with pytest.raises(CannotSendfile):
            Sendfile(fd=fd, start=0, lease=lease(client), length=10).step(may_block=True)
    finally:
        os.close(fd)


def test_this_kernel_splices() -> None:
    """On Linux outside sandboxes the kernel splices."""
    assert can_splice()


def test_a_kernel_that_does_not_splice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that refuses splice is recognised before a body depends on it."""

    def refused(*_: int, **__: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "splice", refused)
    assert not can_splice.__wrapped__()
