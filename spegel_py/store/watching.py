"""The parts that all watchers share: a task that emits events, and inventory differences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping

from spegel_py.store.base import Change, ContentEvent, Inventory

Emit = Callable[[Inventory | ContentEvent], None]
"""Passes one event to the watcher's consumer."""


async def watch_in_task(
    run: Callable[[Emit], Awaitable[None]],
) -> AsyncIterator[Inventory | ContentEvent]:
    """Yield the events that `run` emits. It runs in a task that ends with the iterator.

    A generator must not be suspended inside a task group or a timeout, so those belong in `run`.
    The iterator ends when `run` returns, and raises the error of `run`.
    """
    queue: asyncio.Queue[Inventory | ContentEvent | None] = asyncio.Queue()

    async def running() -> None:
        try:
            await run(queue.put_nowait)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(running())
    try:
        while (event := await queue.get()) is not None:
            yield event
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


class InventoryDiff:
    """The keys that the consumer knows, and the events that bring it up to date.

    Tags come as a mapping to the Unix times of their pulls. Other keys have no such time.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._announced: dict[str, float | None] = {}

    def __repr__(self) -> str:
        return f"<InventoryDiff keys={len(self._announced)}>"

    def __contains__(self, key: str) -> bool:
        return key in self._announced

    def replace(self, keys: Collection[str], tags: Mapping[str, float]) -> None:
        """Send a whole inventory."""
        self._announced = {**dict.fromkeys(keys), **tags}
        self._emit(Inventory(frozenset(self._announced), dict(tags)))

    def update(self, keys: Collection[str], tags: Mapping[str, float]) -> None:
        """Send the difference between the inventory and the known keys."""
        self.remove(self._announced.keys() - keys - tags.keys())
        self.add(keys)
        self.add_tags(tags)

    def add(self, keys: Iterable[str]) -> None:
        """Send the keys that are not known yet."""
        for key in keys:
            if key not in self._announced:
                self._announced[key] = None
                self._emit(ContentEvent(Change.ADDED, key))

    def add_tags(self, tags: Mapping[str, float]) -> None:
        """Send the tags that are new or were pulled again."""
        for name, pulled in tags.items():
            if self._announced.get(name) != pulled:
                change = Change.RENEWED if name in self._announced else Change.ADDED
                self._announced[name] = pulled
                self._emit(ContentEvent(change, name, pulled))

    def remove(self, keys: Iterable[str]) -> None:
        """Send the removal of the keys that are known."""
        for key in keys:
            if key in self._announced:
                del self._announced[key]
                self._emit(ContentEvent(Change.REMOVED, key))
