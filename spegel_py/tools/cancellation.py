"""Cancellations that must not get lost, or must not leave a step half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def raise_if_cancelled() -> None:
    """Raise CancelledError if the current task was asked to end.

    A TaskGroup raises the errors of its tasks in place of a cancellation that comes at the same
    moment (before CPython 3.13). A loop that handles these errors would then go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def to_the_end(step: Awaitable[T]) -> T:
    """Return the result of a step that is never cut short.

    A cancelled caller waits for the end of the step, however often it is cancelled, and is
    cancelled then. So what the step has made is there when the caller undoes it, and is not made
    afterwards.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise


async def ended(future: asyncio.Future[T]) -> None:
    """Wait until the future is done, however often this task is cancelled. Its error is dropped."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait((future,))
    if not future.cancelled():
        future.exception()  # retrieved, so that asyncio does not warn of it
