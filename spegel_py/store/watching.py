"""What all watchers share: a task that finds out, a generator that tells, and a ledger of what was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping

from spegel_py.store.base import Change, ContentEvent, Inventory

Emit = Callable[[Inventory | ContentEvent], None]
"""Hands one event to whoever iterates over the watcher."""


async def watch_in_task(
    run: Callable[[Emit], Awaitable[None]],
) -> AsyncIterator[Inventory | ContentEvent]:
    """Yield what `run` emits, while it runs in a task of its own; closing the iterator ends that task.

    A generator must not be suspended inside a task group or a timeout, so those live in `run`. When `run`
    returns the iterator ends; when it fails the failure is raised here.
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
    """What the listener believes is held; it decides which events bring that up to date.

    Tags are given as a mapping to when they were pulled, in Unix time; other keys have no such time.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._announced: dict[str, float | None] = {}

    def __repr__(self) -> str:
        return f"<Ledger keys={len(self._announced)}>"

    def __contains__(self, key: str) -> bool:
        return key in self._announced

    def replace(self, keys: Collection[str], tags: Mapping[str, float]) -> None:
        """Tell the whole inventory anew."""
        self._announced = {**dict.fromkeys(keys), **tags}
        self._emit(Inventory(frozenset(self._announced), dict(tags)))

    def update(self, keys: Collection[str], tags: Mapping[str, float]) -> None:
        """Tell only what differs from what was told."""
        self.remove(self._announced.keys() - keys - tags.keys())
        self.add(keys)
        self.add_tags(tags)

    def add(self, keys: Iterable[str]) -> None:
        """Tell those of the keys that are new."""
        for key in keys:
            if key not in self._announced:
                self._announced[key] = None
                self._emit(ContentEvent(Change.ADDED, key))

    def add_tags(self, tags: Mapping[str, float]) -> None:
        """Tell those of the tags that are new or were pulled again."""
        for name, pulled in tags.items():
            if self._announced.get(name) != pulled:
                change = Change.RENEWED if name in self._announced else Change.ADDED
                self._announced[name] = pulled
                self._emit(ContentEvent(change, name, pulled))

    def remove(self, keys: Iterable[str]) -> None:
        """Tell that those of the keys that were told are gone."""
        for key in keys:
            if key in self._announced:
                del self._announced[key]
                self._emit(ContentEvent(Change.REMOVED, key))
