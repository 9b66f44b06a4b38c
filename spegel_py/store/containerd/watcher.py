"""Following containerd: subscribe first, then list, then go by its events, and by looking after what they leave out.

Events carry names, not digests, and are lost while the daemon restarts: an image is asked for when it is named,
and every gap ends with a new list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import structlog

from spegel_py.errors import ContentNotFound, OCIError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters, repository_of
from spegel_py.oci.reference import Reference
from spegel_py.store.base import ContentEvent, Inventory
from spegel_py.store.containerd.blobs import Blobs
from spegel_py.store.containerd.client import (
    Client,
    ContentCreated,
    ContentDeleted,
    ImageChanged,
    NamedImage,
    StoreEvent,
)
from spegel_py.store.containerd.gc_watch import GCWatch
from spegel_py.store.containerd.pull_times import PullTimes
from spegel_py.store.containerd.records import BlobRecords, ContainerdOrigins
from spegel_py.store.containerd.store import ContainerdStore
from spegel_py.store.walker import Walker
from spegel_py.store.watching import Emit, InventoryDiff, watch_in_task
from spegel_py.tools.backoff import Backoff

log = structlog.get_logger(__name__)

RETRY_FIRST, RETRY_LAST = 0.1, 2.0
"""Seconds between attempts to reach a daemon that is away: the first pause, doubled up to the last."""

RELIST_FIRST, RELIST = 1.0, 300.0
"""Seconds until the names are listed again: soon after the start, because the daemon does not say from when on a
subscription counts; then rarely, because it drops events for a listener that is slow."""


class ContainerdWatcher:
    """The Watcher port over a ContainerdStore's daemon: tags, and all content of images that is really there.

    Keys are digests and names of the form `registry/repository:tag`. Images named by a digest give no tag, but
    their content counts. What `filters` exclude is not told, nor is content all of whose origins they exclude.
    """

    def __init__(self, *, store: ContainerdStore, filters: Filters = EVERYTHING) -> None:
        self._store = store
        self._filters = filters
        self._away: float | None = None
        self._retry = asyncio.Event()
        self._is_back = asyncio.Event()
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"<ContainerdWatcher {self._store!r}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return watch_in_task(self._run)

    def away(self) -> float | None:
        """Return since when the daemon has been away (monotonic seconds), None while it is followed."""
        return self._away

    def images_by_digest(self) -> list[str]:
        """Return the names `registry/repository@digest` of the images that are told."""
        session = self._session
        return [] if session is None else session.images_by_digest()

    async def reconnect(self) -> None:
        """Try the daemon now, and return when it is followed again."""
        self._retry.set()
        if self._away is not None:
            await self._is_back.wait()

    async def _run(self, emit: Emit) -> None:
        backoff = Backoff(first=RETRY_FIRST, most=RETRY_LAST)
        while True:
            self._session = session = _Session(
                self._store.client,
                self._store.blobs,
                self._store.records,
                self._store.origins,
                self._store.pulls,
                InventoryDiff(emit),
                self._filters,
                is_return=self._away is not None,
                on_listed=self._mark_followed,
            )
            try:
                await session.run()
            except* StoreUnavailable as group:
                if session.has_listed:
                    backoff.reset()
                if self._away is None:
                    log.warning(
                        "containerd is away", socket=str(session.client.socket), error=_first(group)
                    )
                    self._away = time.monotonic()
                    self._is_back.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await self._retry.wait()
            self._retry.clear()

    def _mark_followed(self) -> None:
        self._away = None
        self._is_back.set()


@dataclass(slots=True)
class _Session:
    """One stretch of time in which the daemon answers."""

    client: Client
    blobs: Blobs
    records: BlobRecords
    origins: ContainerdOrigins
    pulls: PullTimes
    diff: InventoryDiff
    filters: Filters
    is_return: bool
    on_listed: Callable[[], None] = lambda: None
    has_listed: bool = False
    images: dict[str, NamedImage] = field(default_factory=dict)
    contents: dict[Digest, frozenset[Digest]] = field(default_factory=dict)
    gc_watch: GCWatch = field(default_factory=GCWatch)
    queue: asyncio.Queue[StoreEvent | None] = field(default_factory=asyncio.Queue)
    walker: Walker = field(init=False)

    def __post_init__(self) -> None:
        self.walker = Walker(open=self.blobs.open, expect=self.blobs.expect)

    async def run(self) -> None:
        """Follow the daemon until it goes away; raises a group of StoreUnavailable."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_events())
            await self.queue.get()  # the subscription is on its way
            await self._list()
            await self._follow()

    async def _read_events(self) -> None:
        async with aclosing(self.client.events()) as events:
            async for event in events:
                self.queue.put_nowait(event)

    async def _list(self) -> None:
        """Tell all that is held."""
        self.images = {image.name: image for image in await self.client.images()}
        self.pulls.keep(self.images)
        # a file may outlive its record for a moment; one that is about to go is not told, for its end is not either
        here = await self.records.list() & await self.blobs.all()
        for image in self.images.values():
            if image.target.digest not in self.contents:
                self.contents[image.target.digest] = await self.walker.reachable(image.target, here)
        self._update_origins()
        shared = filter(self._is_shared, self._held() & here)
        self.diff.replace([str(digest) for digest in shared], self._tags(here))
        self.has_listed = True
        self.on_listed()
        if self.is_return:
            log.info("containerd is back", socket=str(self.client.socket), images=len(self.images))

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop().time
        relist = clock() + RELIST_FIRST
        while True:
            event = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(self.gc_watch.next_due() or relist, relist)):
                    event = await self.queue.get()
            if event is not None:
                await self._apply(event)
            if due := self.gc_watch.due(clock()):
                present = await self._refresh(due)
                self.gc_watch.record_check(due, present=present, held=self._held(), now=clock())
            if clock() >= relist:
                await self._relist()
                relist = clock() + RELIST

    async def _apply(self, event: StoreEvent) -> None:
        match event:
            case ImageChanged(name):
                await self._renew(name)
            case ContentCreated(digest) | ContentDeleted(digest):
                self.records.drop(digest)
                await self._refresh_and_watch({digest})

    async def _renew(self, name: str) -> None:
        """Bring one image up to date: asked for, walked, and looked after, with what it pointed at before."""
        before = self.images.pop(name, None)
        touched = set(self.contents[before.target.digest]) if before else set()
        try:
            image = await self.client.image(name)
        except ContentNotFound:
            self.diff.remove([name])
        else:
            self.images[name] = image
            self.contents[image.target.digest] = await self.walker.reachable(image.target)
            touched |= self.contents[image.target.digest]
        if before and before.target.digest not in self._roots():
            del self.contents[before.target.digest]
        if self.filters:  # a pull adds its repository to the labels of blobs that were here before
            await self.records.query(touched)
        self._update_origins()
        await self._refresh_and_watch(touched)

    async def _refresh_and_watch(self, digests: AbstractSet[Digest]) -> None:
        await self._refresh(digests)
        self.gc_watch.begin(digests, asyncio.get_running_loop().time())

    async def _refresh(self, digests: AbstractSet[Digest]) -> frozenset[Digest]:
        """Tell which of the digests, and of the tags that point at them, are there and which are not."""
        # the file of a blob that no image holds any more may stay for another namespace
        present = await self.blobs.present(digests, anew=digests - self._held())
        told, tags = frozenset(filter(self._is_shared, present)), self._tags(present)
        self.diff.add(str(digest) for digest in told)
        self.diff.add_tags(tags)
        here = {name for name, image in self.images.items() if image.target.digest in digests}
        self.diff.remove(name for name in here - tags.keys() if _is_tag(name))  # others are digests
        self.diff.remove(str(digest) for digest in digests if digest not in told)
        return present

    async def _relist(self) -> None:
        """Find the images that changed without an event, and the blobs that went; walk no others."""
        held = self._held()
        told, before = (
            {one for one in held if str(one) in self.diff},
            set(filter(self._is_shared, held)),
        )
        gone = told - await self.records.list()
        self._update_origins()
        if changed := gone | (before ^ set(filter(self._is_shared, held))):
            await self._refresh_and_watch(changed)
        now = {image.name: image for image in await self.client.images()}
        for name in now.keys() | self.images.keys():
            if now.get(name) != self.images.get(name):
                await self._renew(name)
        self.walker.keep(self._held())
        self.pulls.keep(self.images)

    def _held(self) -> frozenset[Digest]:
        """Return the content of all images, missing blobs too."""
        return frozenset().union(*(self.contents[root] for root in self._roots()))

    def _roots(self) -> set[Digest]:
        return {image.target.digest for image in self.images.values()}

    def _update_origins(self) -> None:
        """Tell where the images came from that hold content, where filters want to know it."""
        if not self.filters:
            return
        names: dict[Digest, set[str]] = {root: set() for root in self._roots()}
        for name, image in self.images.items():
            if repository := repository_of(name):
                names[image.target.digest].add(repository)
        found: dict[Digest, frozenset[str]] = {}
        for root, repositories in names.items():
            sources = self.origins.of_root(root, repositories)
            for digest in self.contents[root]:
                found[digest] = found.get(digest, frozenset()) | sources
        self.origins.of_images = found

    def _is_shared(self, digest: Digest) -> bool:
        """Return True if no filter keeps the content here."""
        return not self.filters or self.filters.shares(self.origins.known(digest))

    def images_by_digest(self) -> list[str]:
        """Return the names with a digest in place of a tag whose content is told."""
        return [
            name
            for name, image in self.images.items()
            if _is_by_digest(name)
            and (repository := repository_of(name))
            and not self.filters.exclude(repository)
            and self._is_shared(image.target.digest)
        ]

    def _tags(self, digests: AbstractSet[Digest]) -> dict[str, float]:
        """Return the tags that are told and point at one of these, and when each was pulled."""
        return {
            name: self.pulls.of(image)
            for name, image in self.images.items()
            if image.target.digest in digests
            and _is_tag(name)
            and not self.filters.exclude(name)
            and self._is_shared(image.target.digest)
        }


def _is_tag(name: str) -> bool:
    try:
        return Reference.parse(name).name == name
    except OCIError:
        return False


def _is_by_digest(name: str) -> bool:
    try:
        reference = Reference.parse(name)
    except OCIError:
        return False
    return reference.digest is not None and reference.name is None


def _first(group: BaseExceptionGroup[StoreUnavailable]) -> str:
    return str(group.exceptions[0])
