"""Carries what the store holds to the router: the difference between inventories, and changes, in batches.

A watcher may yield thousands of changes at once, and a whole inventory again after every gap; peers are told only the
difference, a batch at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from spegel_py.routing.base import Router
from spegel_py.store.base import Change, ContentEvent, Inventory, Watcher

log = structlog.get_logger(__name__)

PACE = 0.05
"""Seconds over which changes are collected: an image's layers then go out in one frame, and a withdrawal is still told
far sooner than the two seconds promised."""


class Advertiser:
    """Keeps the router in step with one watcher."""

    def __init__(self, *, watcher: Watcher, router: Router, changed: Callable[[frozenset[str]], None]) -> None:
        self._watcher = watcher
        self._router = router
        self._changed = changed
        self._held: set[str] = set()
        self._told: set[str] = set()
        self._dirty = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Advertiser {len(self._told)} keys told, {len(self._held ^ self._told)} to tell>"

    async def run(self) -> None:
        """Follow the watcher until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell(), name="advertise")
            async for change in _closing(self._watcher.watch()):
                self._take(change)
                self._dirty.set()

    def _take(self, change: Inventory | ContentEvent) -> None:
        match change:
            case Inventory(keys):
                self._held = set(keys)
            case ContentEvent(Change.ADDED, key):
                self._held.add(key)
            case ContentEvent(Change.REMOVED, key):
                self._held.discard(key)

    async def _tell(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(PACE)
            self._dirty.clear()
            came, went = self._held - self._told, self._told - self._held
            if went:
                await self._router.withdraw(went)
            if came:
                await self._router.advertise(came)
            if came or went:
                self._told = (self._told | came) - went
                self._changed(frozenset(self._told))
                log.info("advertised", added=len(came), withdrawn=len(went), total=len(self._told))


async def _closing(source: AsyncIterator[Inventory | ContentEvent]) -> AsyncIterator[Inventory | ContentEvent]:
    try:
        async for item in source:
            yield item
    finally:
        if aclose := getattr(source, "aclose", None):
            await aclose()
