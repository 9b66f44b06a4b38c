"""Background transfers that wait for runtimes' pulls."""

from __future__ import annotations

import asyncio

from spegel_py.replicas.yield_gate import MOST_SENDING, MOST_TAKING, TRICKLE, YieldGate
from tests.support import virtual


class Foreground:
    """Pulls by a runtime that last until a time."""

    def __init__(self, seconds: float) -> None:
        self.end = seconds
        self.waited: list[float] = []
        self.gate = YieldGate(
            is_busy=lambda: self.now() < self.end, waited=self.waited.append, clock=self.now
        )

    def now(self) -> float:
        return asyncio.get_running_loop().time()


def test_nothing_waits_without_a_pull() -> None:
    async def pass_through() -> None:
        foreground = Foreground(0.0)
        await foreground.gate.take()
        await foreground.gate.send()
        assert (foreground.now(), foreground.waited) == (0.0, [])

    virtual.run(pass_through())


def test_a_piece_waits_for_the_end_of_the_pull() -> None:
    """Not much longer than it lasts."""

    async def wait() -> None:
        foreground = Foreground(5.0)
        await foreground.gate.take()
        assert 5.0 <= foreground.now() <= 5.2
        assert len(foreground.waited) == 1

    virtual.run(wait())


def test_a_piece_does_not_wait_for_ever() -> None:
    """A node that sends nothing for long is taken for dead."""

    async def wait() -> None:
        foreground = Foreground(1e9)
        await foreground.gate.send()
        assert MOST_SENDING <= foreground.now() <= MOST_SENDING + 0.2
        await foreground.gate.take()
        assert MOST_TAKING - 0.1 <= foreground.now() <= MOST_TAKING + 0.2
        began = foreground.now()
        for _ in range(10):
            await foreground.gate.take()
        assert 10 * TRICKLE <= foreground.now() - began <= 10 * TRICKLE + 0.2

    virtual.run(wait())


def test_a_pull_that_nobody_saw_the_end_of_is_not_the_next_one() -> None:
    """The last piece of an image is followed by no look at the pulls."""

    async def wait() -> None:
        foreground = Foreground(3.0)
        await foreground.gate.take()
        await asyncio.sleep(100.0)
        foreground.end = 1e9
        for piece in (foreground.gate.send, foreground.gate.take):
            began = foreground.now()
            await piece()
            assert foreground.now() - began >= MOST_SENDING - 0.1
        await asyncio.sleep(100.0)
        began = foreground.now()
        await foreground.gate.take()
        assert foreground.now() - began >= MOST_TAKING - 0.1

    virtual.run(wait())


def test_a_sender_that_is_always_busy_sends_more_after_a_while() -> None:
    """Otherwise a piece of 256 KiB would come every two seconds for ever."""

    async def wait() -> None:
        foreground = Foreground(1e9)
        while foreground.now() < MOST_TAKING:
            await foreground.gate.send()
        began = foreground.now()
        for _ in range(10):
            await foreground.gate.send()
        assert foreground.now() - began <= 10 * TRICKLE + 0.2

    virtual.run(wait())
