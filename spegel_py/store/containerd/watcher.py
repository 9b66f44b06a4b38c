"""Following containerd: subscribe first, then list, then go by its events, and by looking after what they leave out.

Events carry names, not digests, and are lost while the daemon restarts: an image is asked for when it is named,
and every gap ends with a new list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import structlog

from spegel_py.errors import ContentNotFound, OCIError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters, repository_of
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import Reference
from spegel_py.store.base import ContentEvent, Inventory
from spegel_py.store.containerd.blobs import Blobs
from spegel_py.store.containerd.client import Client, ContentCreated, ContentDeleted, ImageChanged, StoreEvent
from spegel_py.store.containerd.store import ContainerdStore
from spegel_py.store.containerd.vigil import Vigil
from spegel_py.store.pump import Emit, Ledger, pumped
from spegel_py.store.walk import Walker

log = structlog.get_logger(__name__)

RETRY_FIRST, RETRY_LAST = 0.1, 2.0
"""Seconds between attempts to reach a daemon that is away: the first pause, doubled up to the last."""

RELIST_FIRST, RELIST = 1.0, 300.0
"""Seconds until the names are listed again: soon after the start, because the daemon does not say from when on a
subscription counts; then rarely, because it drops events for a listener that is slow."""


class ContainerdWatcher:
    """The Watcher port over a ContainerdStore's daemon: tags, and all content of images that is really there.

    Keys are digests and names of the form `registry/repository:tag`. Images named by a digest give no tag, but
    their content counts. What `filters` exclude is not told.
    """

    def __init__(self, *, store: ContainerdStore, filters: Filters = EVERYTHING) -> None:
        self._store = store
        self._filters = filters

    def __repr__(self) -> str:
        return f"<ContainerdWatcher {self._store!r}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return pumped(self._run)

    async def _run(self, emit: Emit) -> None:
        pause, is_away = RETRY_FIRST, False
        while True:
            session = _Session(self._store.client, self._store.blobs, Ledger(emit), self._filters, is_return=is_away)
            try:
                await session.run()
            except* StoreUnavailable as group:
                if session.has_listed:
                    pause, is_away = RETRY_FIRST, False
                if not is_away:
                    log.warning("containerd is away", socket=str(session.client.socket), error=_first(group))
                is_away = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_LAST)


@dataclass(slots=True)
class _Session:
    """One stretch of time in which the daemon answers."""

    client: Client
    blobs: Blobs
    ledger: Ledger
    filters: Filters
    is_return: bool
    has_listed: bool = False
    images: dict[str, Child] = field(default_factory=dict)
    reach: dict[Digest, frozenset[Digest]] = field(default_factory=dict)
    vigil: Vigil = field(default_factory=Vigil)
    queue: asyncio.Queue[StoreEvent | None] = field(default_factory=asyncio.Queue)
    walker: Walker = field(init=False)

    def __post_init__(self) -> None:
        self.walker = Walker(open=self.blobs.open, expect=self.blobs.expect)

    async def run(self) -> None:
        """Follow the daemon until it goes away; raises a group of StoreUnavailable."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear())
            await self.queue.get()  # the subscription is on its way
            await self._list()
            await self._follow()

    async def _hear(self) -> None:
        async with aclosing(self.client.events()) as events:
            async for event in events:
                self.queue.put_nowait(event)

    async def _list(self) -> None:
        """Tell all that is held."""
        self.images = {image.name: image.target for image in await self.client.images()}
        # a file may outlive its record for a moment; one that is about to go is not told, for its end is not either
        here = frozenset(await self.client.content()) & await self.blobs.all()
        for root in self.images.values():
            if root.digest not in self.reach:
                self.reach[root.digest] = await self.walker.reach(root, here)
        tags = {name for name, root in self.images.items() if self._is_tag(name) and root.digest in here}
        self.ledger.replace(tags | {str(digest) for digest in self._shared() & here})
        self.has_listed = True
        if self.is_return:
            log.info("containerd is back", socket=str(self.client.socket), images=len(self.images))

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop().time
        relist = clock() + RELIST_FIRST
        while True:
            event = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(self.vigil.next() or relist, relist)):
                    event = await self.queue.get()
            if event is not None:
                await self._apply(event)
            if due := self.vigil.due(clock()):
                present = await self._refresh(due)
                self.vigil.looked(due, present=present, held=self._held(), now=clock())
            if clock() >= relist:
                await self._relist()
                relist = clock() + RELIST

    async def _apply(self, event: StoreEvent) -> None:
        match event:
            case ImageChanged(name):
                await self._renew(name)
            case ContentCreated(digest) | ContentDeleted(digest):
                await self._look_after({digest})

    async def _renew(self, name: str) -> None:
        """Bring one image up to date: asked for, walked, and looked after, with what it pointed at before."""
        before = self.images.pop(name, None)
        touched = set(self.reach[before.digest]) if before else set()
        try:
            root = (await self.client.image(name)).target
        except ContentNotFound:
            self.ledger.remove([name])
        else:
            self.images[name] = root
            self.reach[root.digest] = await self.walker.reach(root)
            touched |= self.reach[root.digest]
        if before and all(root.digest != before.digest for root in self.images.values()):
            del self.reach[before.digest]
        await self._look_after(touched)

    async def _look_after(self, digests: Collection[Digest]) -> None:
        await self._refresh(digests)
        self.vigil.begin(digests, asyncio.get_running_loop().time())

    async def _refresh(self, digests: Collection[Digest]) -> frozenset[Digest]:
        """Tell which of the digests, and of the tags that point at them, are there and which are not."""
        present = await self.blobs.present(digests)
        # whose a blob is that no image holds yet, no filter can tell
        told = present & self._shared() if self.filters else present
        named = {name: root.digest for name, root in self.images.items() if root.digest in digests}
        tags = {name: digest for name, digest in named.items() if self._is_tag(name)}
        self.ledger.add(str(digest) for digest in told)
        self.ledger.add(name for name, digest in tags.items() if digest in present)
        self.ledger.remove(name for name, digest in tags.items() if digest not in present)
        self.ledger.remove(str(digest) for digest in digests if digest not in told)
        return present

    async def _relist(self) -> None:
        """Find the images that changed without an event; only those are walked."""
        now = {image.name: image.target for image in await self.client.images()}
        for name in now.keys() | self.images.keys():
            if now.get(name) != self.images.get(name):
                await self._renew(name)
        self.walker.keep(self._held())

    def _held(self) -> frozenset[Digest]:
        """Return the content of all images, missing blobs too."""
        return frozenset().union(*(self.reach[root.digest] for root in self.images.values()))

    def _shared(self) -> frozenset[Digest]:
        """Return the content of the images that are not filtered; a nameless image is what its named twins are."""
        if not self.filters:
            return self._held()
        named = {name: repository for name in self.images if (repository := repository_of(name))}
        twins = {self.images[name].digest for name in named}
        roots = {self.images[name].digest for name in named if not self.filters.exclude(named[name])}
        roots |= {root.digest for name, root in self.images.items() if name not in named and root.digest not in twins}
        return frozenset().union(*(self.reach[root] for root in roots))

    def _is_tag(self, name: str) -> bool:
        """Say whether the name is that of a tag, and one that is told."""
        try:
            return Reference.parse(name).name == name and not self.filters.exclude(name)
        except OCIError:
            return False


def _first(group: BaseExceptionGroup[StoreUnavailable]) -> str:
    return str(group.exceptions[0])
