"""Blocking calls of a pull, made in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from spegel_py.pull.blobs import in_thread


async def test_a_call_that_is_cancelled_again_and_again_is_waited_for() -> None:
    """The caller goes on to close the call's descriptor only once the call has returned."""
    began, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        may_end.wait(10)
        has_ended.set()

    calling = asyncio.create_task(in_thread(write))
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

    calling = asyncio.create_task(in_thread(fail))
    await asyncio.to_thread(began.wait, 10)
    calling.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
