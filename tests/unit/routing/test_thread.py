"""The bridge to Trio: results, errors and cancellation cross it, and nothing on the one side can
stop the other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.libp2p.thread import TaskStatus, TrioThread


async def main(stop: trio.Event, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
    task_status.started()
    await stop.wait()


@asynccontextmanager
async def running() -> AsyncIterator[TrioThread]:
    thread = TrioThread(main)
    await thread.start()
    try:
        yield thread
    finally:
        await thread.stop(timeout=2.0)


async def double(number: int) -> int:
    await trio.sleep(0)
    return 2 * number


async def fail() -> None:
    raise KeyError("x")


async def test_results_and_errors_cross() -> None:
    """A call returns the result of the function, and raises its error."""
    async with running() as thread:
        assert await asyncio.gather(*(thread.call(double, number) for number in range(50))) == list(
            range(0, 100, 2)
        )
        with pytest.raises(KeyError):
            await thread.call(fail)
        assert await thread.call(double, 1) == 2


async def test_a_cancellation_crosses() -> None:
    """When a call is cancelled here, the function is cancelled there."""
    begun, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with running() as thread:
        call = asyncio.create_task(thread.call(wait))
        await asyncio.to_thread(begun.wait, 5)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert await asyncio.to_thread(cancelled.wait, 5)


async def test_calls_end_with_the_life_they_were_made_in() -> None:
    """Callers that wait when a life ends, and later callers, get RouterUnavailable."""
    for is_crash in (False, True):
        async with running() as thread:
            call = asyncio.create_task(thread.call(trio.sleep_forever))
            await thread.call(double, 1)
            if is_crash:
                await thread.call(thread.crash)
                await thread.ended()
            else:
                await thread.stop(timeout=5.0)
            with pytest.raises(RouterUnavailable):
                await call
            with pytest.raises(RouterUnavailable):
                await thread.call(double, 1)


async def test_a_hung_life_holds_up_nobody_and_can_be_left_behind() -> None:
    """While a life hangs, calls and their cancellation return to the loop at once; left behind, it
    fails them all and ends by itself when it wakes up."""
    release = threading.Event()
    async with running() as thread:
        try:
            await thread.call(thread.hang, release.wait)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await thread.call(double, 1)
            waiting = asyncio.create_task(thread.call(double, 1))
            await asyncio.sleep(0.05)
            thread.abandon()
            with pytest.raises(RouterUnavailable):
                await waiting
            with pytest.raises(RouterUnavailable):
                await thread.call(double, 1)
            assert time.monotonic() - began < 2.0
        finally:
            release.set()
        async with asyncio.timeout(5):
            assert await thread.ended() is None
