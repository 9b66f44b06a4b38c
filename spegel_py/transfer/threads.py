"""Threads in which bytes are moved: few, shared a slice of time at a time, and never left behind with a descriptor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spegel_py.transfer.moves import Move, Side
from spegel_py.transfer.turns import Turns

T = TypeVar("T")


class Threads:
    """A bounded executor of its own, whose threads go to the owners of transfers in turn."""

    def __init__(self, *, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._turns = Turns(count)

    def __repr__(self) -> str:
        return f"<Threads {self._turns!r}>"

    async def run(self, move: Move) -> Side | None:
        """Move bytes for a slice of time; return the side that must be waited for then, None for neither."""
        async with self._turns.turn(move.loan.owner):
            return await in_thread(self._pool, move.run, stop=move.stop)

    def close(self) -> None:
        """Wait for what is under way, and let no more in."""
        self._pool.shutdown()


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[], T], *, stop: Callable[[], None] | None = None) -> T:
    """Return what `work` returns; if cancelled, have it stop and wait for its end: its descriptors are closed next."""
    working = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        await _end(working)
        raise


async def _end(working: asyncio.Future[T]) -> None:
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError:
            continue  # whoever cancels again must wait as well
    working.exception()  # so that nobody misses it
