"""A cancellation that comes while a task group fails."""

from __future__ import annotations

import asyncio

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.tools.cancellation import raise_if_cancelled


async def test_a_cancellation_beside_an_error_ends_a_loop() -> None:
    """The task group raises the error alone, and the loop would start another round."""
    rounds, has_failed = 0, asyncio.Event()

    async def fail() -> None:
        has_failed.set()
        raise StoreUnavailable("away")

    async def loop() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.Event().wait()
            except* StoreUnavailable:
                pass
            raise_if_cancelled()

    task = asyncio.create_task(loop())
    await has_failed.wait()
    task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert rounds <= 2


async def test_a_task_that_nobody_cancels_goes_on() -> None:
    raise_if_cancelled()
