"""Work in threads that is never left behind with a descriptor: who is cancelled waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Return what `work` returns; if cancelled, wait for its end first: its descriptors are closed next."""
    working = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await settled(working)
        raise


async def settled(future: asyncio.Future[T]) -> None:
    """Wait until it is done, however often this task is cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # whoever cancels again must wait as well
    future.exception()  # so that nobody misses it
