"""The thread that moves bytes: turns, waits, cancelling, disks, its own end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.transfer.base import ClientGone, SocketLease
from spegel_py.transfer.mover import Mover
from spegel_py.transfer.moves import Move, Side
from tests.unit.transfer.test_moves import Wire

Step = Callable[["Scripted", bool], Side | None]


class Scripted(Move):
    """A move with the test's steps; each counts as one byte unless it returns a side."""

    def __init__(
        self, wire: Wire, *, length: int, step: Step = lambda _move, _may_block: None
    ) -> None:
        super().__init__(
            source=None, lease=SocketLease(fd=wire.near.fileno(), timeout=5), length=length
        )
        self._do = step

    def step(self, *, may_block: bool = False) -> Side | None:
        if (side := self._do(self, may_block)) is None:
            self._moved(1)
        return side


@pytest.fixture
def mover() -> Iterator[Mover]:
    with closing(Mover(name="test", threads=1, disk_threads=2)) as made:
        yield made


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    made = [Wire() for _ in range(3)]
    yield made
    for wire in made:
        wire.close()


def patiently(_now: float) -> float:
    return 5.0


async def test_transfers_take_turns(mover: Mover, wires: list[Wire]) -> None:
    """A late transfer on a busy thread gets as many steps as an old one."""
    late_is_there = threading.Event()
    steps: list[str] = []

    def step(name: str) -> Step:
        def do(move: Scripted, _may_block: bool) -> None:
            if name == "late":
                late_is_there.set()
            if late_is_there.is_set():
                steps.append(name)
            if name == "early" and move.left == 1 and not late_is_there.is_set():
                move.left += 1  # under way until the other is there

        return do

    early = Scripted(wires[0], length=1000, step=step("early"))
    early.left = 2
    running = asyncio.ensure_future(mover.run(early, check=patiently))
    await mover.run(Scripted(wires[1], length=1, step=step("late")), check=patiently)
    await running
    assert steps[0] == "late"
    assert len(steps) <= 4


async def test_threads_share_the_transfers(wires: list[Wire]) -> None:
    """A new transfer goes to the thread with the fewest."""
    with closing(Mover(name="shared", threads=2)) as mover:
        waiting = [
            Scripted(wire, length=1, step=lambda _move, _may_block: Side.SOURCE) for wire in wires
        ]
        running = [asyncio.ensure_future(mover.run(move, check=patiently)) for move in waiting]
        while not all(move.waits.side for move in waiting):
            await asyncio.sleep(0.001)
        assert repr(mover) == "<Mover shared: [2 transfers, 0 ready, 1 transfers, 0 ready]>"
    with pytest.raises(ClientGone):
        await asyncio.gather(*running)


async def test_one_disk_that_hangs_holds_up_no_other_transfer(
    mover: Mover, wires: list[Wire]
) -> None:
    """A step that must wait for a disk is made elsewhere. Other transfers go on to their end."""
    disk = threading.Event()

    def wait(_move: Scripted, may_block: bool) -> Side | None:
        if not may_block:
            return Side.DISK
        disk.wait()
        return None

    waiting = asyncio.ensure_future(
        mover.run(Scripted(wires[0], length=1, step=wait), check=patiently)
    )
    async with asyncio.timeout(5):
        await mover.run(Scripted(wires[1], length=100), check=patiently)
    assert not waiting.done()
    disk.set()
    await waiting


async def test_a_client_that_can_take_more_is_served_again(mover: Mover, wires: list[Wire]) -> None:
    """A wait for a side that was not ready blocks no thread, and is recorded."""
    wire, filler = wires[0], bytes(1 << 16)

    def fill(move: Scripted, _may_block: bool) -> Side | None:
        try:
            wire.near.send(filler)
        except BlockingIOError:
            return Side.CLIENT
        return None

    move = Scripted(wire, length=200, step=fill)
    running = asyncio.ensure_future(mover.run(move, check=patiently))
    async with asyncio.timeout(5):
        while move.waits.side is not Side.CLIENT:
            await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        wire.far.setblocking(False)
        while not running.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(wire.far, 1 << 20), 0.05)
    await running
    assert move.waits.side is None


async def test_what_a_look_finds_wanting_is_given_up(mover: Mover, wires: list[Wire]) -> None:
    """The move ends with the error of the check, and is not stepped again."""

    def check(_now: float) -> float:
        raise ClientGone("too slow")

    move = Scripted(wires[0], length=1, step=lambda _move, _may_block: Side.CLIENT)
    with pytest.raises(ClientGone, match="too slow"):
        await mover.run(move, check=check)
    await mover.run(Scripted(wires[0], length=1), check=patiently)  # the descriptor is free again


async def test_a_failed_step_ends_its_move_alone(mover: Mover, wires: list[Wire]) -> None:
    """The error is raised where the move is awaited; other moves do not notice."""

    def fail(_move: Scripted, _may_block: bool) -> None:
        raise StoreUnavailable("no disk")

    results = await asyncio.gather(
        mover.run(Scripted(wires[0], length=1, step=fail), check=patiently),
        mover.run(Scripted(wires[1], length=100), check=patiently),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable, type(None)]


async def test_closing_ends_what_is_under_way(mover: Mover, wires: list[Wire]) -> None:
    """A node that stops waits for no client, and takes no new transfers."""
    stuck = Scripted(wires[0], length=1, step=lambda _move, _may_block: Side.SOURCE)
    running = asyncio.ensure_future(mover.run(stuck, check=patiently))
    while stuck.waits.side is None:
        await asyncio.sleep(0.001)
    mover.close()
    with pytest.raises(ClientGone):
        await running
    with pytest.raises(ClientGone):
        await mover.run(Scripted(wires[1], length=1), check=patiently)
    mover.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_dies_leaves_nobody_waiting(
    mover: Mover, wires: list[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kills a thread, its moves end with an error, and the next move gets a new thread."""
    stuck = Scripted(wires[0], length=1, step=lambda _move, _may_block: Side.SOURCE)
    running = asyncio.ensure_future(mover.run(stuck, check=patiently))
    while stuck.waits.side is None:
        await asyncio.sleep(0.001)

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("spegel_py.transfer.mover._Thread._begin", broken)
        other = asyncio.ensure_future(mover.run(Scripted(wires[1], length=1), check=patiently))
        with pytest.raises(StoreUnavailable, match="a bug"):
            await running
        other.cancel()
        await asyncio.wait([other])
    await mover.run(Scripted(wires[2], length=1), check=patiently)
