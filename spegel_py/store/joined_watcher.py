"""Several watchers as one: the containerd namespaces of one node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import chain

from spegel_py.store.base import Change, ContentEvent, Inventory, Watcher
from spegel_py.store.watching import Emit, watch_in_task


class JoinedWatcher:
    """The Watcher port over several watchers: a key is held as long as one of them has it.

    If several have a tag, the time of the first one's pull counts. The first inventory waits for
    the inventories of all.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def __repr__(self) -> str:
        return f"<JoinedWatcher {list(self.watchers)!r}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return watch_in_task(self._run)

    async def _run(self, emit: Emit) -> None:
        union = _Union(len(self.watchers), emit)
        async with asyncio.TaskGroup() as group:
            for number, watcher in enumerate(self.watchers):
                group.create_task(_follow(watcher, number, union))


async def _follow(watcher: Watcher, number: int, union: _Union) -> None:
    async for event in watcher.watch():
        if isinstance(event, Inventory):
            union.replace(number, event)
        else:
            union.apply(number, event)


class _Union:
    """The keys of each part with the times of their pulls, None for keys that are no tags."""

    def __init__(self, parts: int, emit: Emit) -> None:
        self._parts: list[dict[str, float | None]] = [{} for _ in range(parts)]
        self._listed: set[int] = set()  # the parts that have sent an inventory
        self._emit = emit

    @property
    def _is_complete(self) -> bool:
        return len(self._listed) == len(self._parts)

    def replace(self, number: int, inventory: Inventory) -> None:
        """Take over a part's inventory, and send that of all parts once each has one."""
        self._parts[number] = dict.fromkeys(inventory.keys) | dict(inventory.pulled)
        self._listed.add(number)
        if self._is_complete:
            held = frozenset(chain.from_iterable(self._parts))
            pulled = {key: at for key in held if (at := self._pulled(key)) is not None}
            self._emit(Inventory(held, pulled))

    def apply(self, number: int, event: ContentEvent) -> None:
        """Take over a change of one part, and send what it changes for all parts together."""
        was_held, before = self._holds(event.key), self._pulled(event.key)
        if event.change is Change.REMOVED:
            self._parts[number].pop(event.key, None)
        else:
            self._parts[number][event.key] = event.pulled
        if not self._is_complete:
            return
        is_held, after = self._holds(event.key), self._pulled(event.key)
        if was_held and not is_held:
            self._emit(ContentEvent(Change.REMOVED, event.key))
        elif is_held and not was_held:
            self._emit(ContentEvent(Change.ADDED, event.key, after))
        elif after != before:
            self._emit(ContentEvent(Change.RENEWED, event.key, after))

    def _holds(self, key: str) -> bool:
        return any(key in part for part in self._parts)

    def _pulled(self, key: str) -> float | None:
        """Return the time of a tag's pull in the first part that has it."""
        return next((part[key] for part in self._parts if key in part), None)
