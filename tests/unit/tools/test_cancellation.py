"""A cancellation that comes while a task group fails, and one that waits for a step."""

from __future__ import annotations

import asyncio

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.tools.cancellation import raise_if_cancelled, to_the_end


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


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_cancelled_caller_waits_for_the_end_of_its_step(is_refused: bool) -> None:
    may_end, has_ended = asyncio.Event(), False

    async def step() -> None:
        nonlocal has_ended
        await may_end.wait()
        has_ended = True
        if is_refused:
            raise StoreUnavailable("away")

    task = asyncio.create_task(to_the_end(step()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert has_ended


async def test_a_step_gives_its_result_or_its_error() -> None:
    async def step(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 1

    assert await to_the_end(step(None)) == 1
    with pytest.raises(StoreUnavailable):
        await to_the_end(step(StoreUnavailable("away")))
