"""Carries what the store holds to the router: the difference between inventories, and changes, in batches.

A watcher may yield thousands of changes at once, and a whole inventory again after every gap; peers are told only the
difference, a batch at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping

import structlog

from spegel_py.oci.reference import canonical_name
from spegel_py.routing.base import Router
from spegel_py.store.base import Change, ContentEvent, Inventory, Watcher

log = structlog.get_logger(__name__)

PACE = 0.05
"""Seconds over which changes are collected: an image's layers then go out in one frame, and a withdrawal is still told
far sooner than the two seconds promised."""


class Advertiser:
    """Keeps the router in step with one watcher.

    `seen` says when a tag that was pulled at that time was last seen at its registry; tags are not told at all
    without it. A tag whose registry has another canonical spelling is told under both names, since
    Spegel's nodes look up the name that the image has.
    """

    def __init__(
        self,
        *,
        watcher: Watcher,
        router: Router,
        changed: Callable[[frozenset[str]], None],
        seen: Callable[[str, float], float] | None = lambda name, pulled: pulled,
    ) -> None:
        self._watcher = watcher
        self._router = router
        self._changed = changed
        self._seen = seen
        self._held: dict[
            str, float | None
        ] = {}  # with when it was last seen at its registry, of a tag
        self._told: dict[str, float | None] = {}
        self._tags: dict[str, float] = {}  # with when each was pulled, told or not
        self._spellings: dict[str, set[str]] = {}  # tags by canonical name, where that is another
        self._dirty = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Advertiser {len(self._told)} keys told, {self.to_tell} to tell>"

    @property
    def told(self) -> Collection[str]:
        """The keys that are advertised now."""
        return self._told.keys()

    @property
    def to_tell(self) -> int:
        """How many keys peers are still to be told of, that came, went or were renewed."""
        return len(dict(self._to_be_told().items() ^ self._told.items()))

    @property
    def tags(self) -> Mapping[str, float]:
        """The tags of what is held and shared, with when each was pulled; also where tags are not told."""
        return self._tags

    def spellings(self, name: str) -> Collection[str]:
        """Return the tags that are held under other spellings of this canonical name."""
        return self._spellings.get(name, ())

    async def run(self) -> None:
        """Follow the watcher until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell(), name="advertise")
            async for change in _closing(self._watcher.watch()):
                self._take(change)
                self._dirty.set()

    def _take(self, change: Inventory | ContentEvent) -> None:
        match change:
            case Inventory(keys, pulled):
                self._held, self._tags, self._spellings = {}, {}, {}
                for key in keys:
                    self._hold(key, pulled.get(key))
            case ContentEvent(Change.REMOVED, key):
                self._held.pop(key, None)
                self._tags.pop(key, None)
                self._forget_spelling(key)
            case ContentEvent(_, key, pulled_at):
                self._hold(key, pulled_at)

    def _hold(self, key: str, pulled: float | None) -> None:
        if pulled is None:
            self._held[key] = None
            return
        self._tags[key] = pulled
        if (canonical := canonical_name(key)) != key:
            self._spellings.setdefault(canonical, set()).add(key)
        if self._seen is not None:
            self._held[key] = self._seen(key, pulled)

    def _forget_spelling(self, key: str) -> None:
        canonical = canonical_name(key)
        if names := self._spellings.get(canonical):
            names.discard(key)
            if not names:
                del self._spellings[canonical]

    def _to_be_told(self) -> dict[str, float | None]:
        """Return what is held, tags under their canonical names too."""
        told = dict(self._held)
        for canonical, names in self._spellings.items():
            seen = [when for name in names if (when := self._held.get(name)) is not None]
            if seen and canonical not in told:
                told[canonical] = max(seen)
        return told

    async def _tell(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(PACE)
            self._dirty.clear()
            held, own = self._to_be_told(), frozenset(self._held)
            went, news = self._told.keys() - held.keys(), dict(held.items() - self._told.items())
            came = news.keys() - self._told.keys()
            if went:
                await self._router.withdraw(went)
            if news:
                pulled = {key: seen for key, seen in news.items() if seen is not None}
                await self._router.advertise(news.keys(), pulled=pulled)
            self._told = held
            if came or went:
                self._changed(own)
                log.info("advertised", added=len(came), withdrawn=len(went), total=len(held))


async def _closing(
    source: AsyncIterator[Inventory | ContentEvent],
) -> AsyncIterator[Inventory | ContentEvent]:
    try:
        async for item in source:
            yield item
    finally:
        if aclose := getattr(source, "aclose", None):
            await aclose()
