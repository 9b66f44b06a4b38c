"""Advertises the store's content on the router, in batches.

A watcher may yield thousands of changes at once, and a whole inventory again after every gap. Peers
get only the difference, a batch at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping

import structlog

from spegel_py.oci.reference import canonical_name, tags_key
from spegel_py.routing.base import Router
from spegel_py.store.base import Change, ContentEvent, Inventory, Watcher

log = structlog.get_logger(__name__)

PACE = 0.05
"""Seconds over which changes are collected: an image's layers then go out in one frame, and a
withdrawal still comes far sooner than the two seconds promised."""


class Advertiser:
    """Keeps the router in step with one watcher.

    A tag whose registry has another canonical spelling is advertised under both names, since
    Spegel's nodes look up the name that the image has. Each repository with a tag has a key of its
    own, by which the nodes are found whose tags make a list.

    Args:
        changed: is called with the held keys after an advertisement.
        seen: returns when a tag, pulled at a given time, was last seen at its registry. Without it
            no tags are advertised.
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
        # Of a tag, with the time at which it was last seen at its registry.
        self._held: dict[str, float | None] = {}
        self._advertised: dict[str, float | None] = {}
        self._repositories: frozenset[str] = frozenset()  # the keys advertised for repositories
        self._tags: dict[str, float] = {}  # with the pull time of each, advertised or not
        self._spellings: dict[str, set[str]] = {}  # tags by a canonical name that differs
        self._dirty = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Advertiser {len(self._advertised)} keys advertised, {self.to_advertise} to tell>"

    @property
    def advertised(self) -> Collection[str]:
        """The keys advertised now."""
        return self._advertised.keys()

    @property
    def to_advertise(self) -> int:
        """The number of keys still to be advertised, withdrawn or renewed."""
        return len(dict(self._wanted().items() ^ self._advertised.items()))

    @property
    def tags(self) -> Mapping[str, float]:
        """The held tags with their pull times, even if tags are not advertised."""
        return self._tags

    def spellings(self, name: str) -> Collection[str]:
        """Return the held tags under other spellings of this canonical name."""
        return self._spellings.get(name, ())

    async def run(self) -> None:
        """Follow the watcher until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._advertise(), name="advertise")
            async for change in _closing(self._watcher.watch()):
                self._apply(change)
                self._dirty.set()

    def _apply(self, change: Inventory | ContentEvent) -> None:
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

    def _wanted(self) -> dict[str, float | None]:
        """Return the keys to advertise: the held ones, and the canonical names of tags."""
        wanted = dict(self._held)
        for canonical, names in self._spellings.items():
            seen = [when for name in names if (when := self._held.get(name)) is not None]
            if seen and canonical not in wanted:
                wanted[canonical] = max(seen)
        return wanted

    async def _advertise(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(PACE)
            self._dirty.clear()
            held, own = self._wanted(), frozenset(self._held)
            went, news = (
                self._advertised.keys() - held.keys(),
                dict(held.items() - self._advertised.items()),
            )
            came = news.keys() - self._advertised.keys()
            await self._advertise_repositories()
            if went:
                await self._router.withdraw(went)
            if news:
                pulled = {key: seen for key, seen in news.items() if seen is not None}
                await self._router.advertise(news.keys(), pulled=pulled)
            self._advertised = held
            if came or went:
                self._changed(own)
                log.info("advertised", added=len(came), withdrawn=len(went), total=len(held))

    async def _advertise_repositories(self) -> None:
        names = self._tags if self._seen is not None else ()
        wanted = frozenset(tags_key(canonical_name(name).rpartition(":")[0]) for name in names)
        if went := self._repositories - wanted:
            await self._router.withdraw(went)
        if came := wanted - self._repositories:
            await self._router.advertise(came)
        self._repositories = wanted


async def _closing(
    source: AsyncIterator[Inventory | ContentEvent],
) -> AsyncIterator[Inventory | ContentEvent]:
    try:
        async for item in source:
            yield item
    finally:
        if aclose := getattr(source, "aclose", None):
            await aclose()
