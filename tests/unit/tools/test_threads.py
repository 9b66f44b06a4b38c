"""Blocking calls in threads: awaited, or abandoned."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from spegel_py.tools.threads import DetachedThread, run, run_detached


async def test_a_call_that_is_cancelled_again_and_again_is_waited_for() -> None:
    """The caller goes on to close the call's descriptor only once the call has returned."""
    began, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        may_end.wait(10)
        has_ended.set()

    calling = asyncio.create_task(run(write))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(3):
        calling.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert not calling.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert has_ended.is_set()


async def test_the_error_of_a_call_that_was_cancelled_is_dropped() -> None:
    """The caller sees that it was cancelled, and no warning of an error that nobody read."""
    began, may_end = threading.Event(), threading.Event()

    def fail() -> None:
        began.set()
        may_end.wait(10)
        raise OSError("the disk is full")

    calling = asyncio.create_task(run(fail))
    await asyncio.to_thread(began.wait, 10)
    calling.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_call_outlives_the_cancellation_of_every_task() -> None:
    """At the end of a loop all tasks are cancelled: the caller still waits for its call."""
    began, may_end = threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        may_end.wait(10)

    calling = asyncio.create_task(run(write))
    await asyncio.to_thread(began.wait, 10)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0.01)
    assert not calling.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_detached_call_is_abandoned_when_its_caller_is_cancelled() -> None:
    """Nobody waits for a call that may hang; its outcome is dropped."""
    may_end = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run_detached(lambda: may_end.wait(10))
    may_end.set()


async def test_a_detached_call_returns_and_raises() -> None:
    """As if it had been called here."""
    with pytest.raises(FileNotFoundError):
        await run_detached(lambda: Path("/nowhere").read_text())
    assert await run_detached(lambda: 3) == 3


async def test_what_blocks_thread_holds_up_nobody(tmp_path: Path) -> None:
    """While one function blocks its thread, the loop runs; an error is raised at the caller."""
    with DetachedThread(name="test") as thread:
        ticks = 0
        slow = asyncio.create_task(thread.run(lambda: time.sleep(0.3)))
        while not slow.done():
            ticks += 1
            await asyncio.sleep(0.01)
        assert ticks > 3
        with pytest.raises(FileNotFoundError):
            await thread.run((tmp_path / "absent").read_bytes)
