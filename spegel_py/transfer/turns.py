"""Turns for which many wait, owner by owner: one with many transfers does not starve another's first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets `free` in at the same time. Whoever waits is let in round robin over the owners, in order within one."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Turns free={self._free} waiting={ {owner: len(queue) for owner, queue in self._waiting.items()} }>"

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Be let in while the block lasts."""
        await self._enter(owner)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, owner: str) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had been given already
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            owner, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            if queue:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            if not turn.done():  # done: cancelled
                turn.set_result(None)
                return
        self._free += 1
