"""One period in which containerd answers: subscribe, list, then apply events and check for losses.

Events carry names without digests, so a named image is queried. Garbage collection has no events,
so blobs that it may take are checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import structlog

from spegel_py.errors import ContentNotFound, OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters, repository_of
from spegel_py.oci.reference import Reference, is_replica_key, is_tag
from spegel_py.store.base import Replica
from spegel_py.store.containerd.containerd_store import ContainerdStore
from spegel_py.store.containerd.gc_watch import GCWatch
from spegel_py.store.containerd.grpc_client import (
    ContentCreated,
    ContentDeleted,
    ImageChanged,
    NamedImage,
    StoreEvent,
)
from spegel_py.store.walker import Walker
from spegel_py.store.watching import InventoryDiff

log = structlog.get_logger(__name__)

RELIST_FIRST, RELIST = 1.0, 300.0
"""Seconds until all names are listed again: the first time, and later.

The first is soon because the daemon does not say when a subscription takes effect. Later ones are
rare; they find events that the daemon dropped for a slow listener.
"""


@dataclass(frozen=True, slots=True)
class ReplicaChanged:
    """A replica was added or released here."""

    replica: Replica


@dataclass(slots=True)
class FollowSession:
    """A period in which the daemon answers."""

    store: ContainerdStore
    diff: InventoryDiff
    filters: Filters
    is_return: bool
    on_listed: Callable[[], None] = lambda: None
    has_listed: bool = False
    images: dict[str, NamedImage] = field(default_factory=dict)
    contents: dict[Digest, frozenset[Digest]] = field(default_factory=dict)
    gc_watch: GCWatch = field(default_factory=GCWatch)
    queue: asyncio.Queue[StoreEvent | ReplicaChanged | None] = field(default_factory=asyncio.Queue)
    walker: Walker = field(init=False)

    def __post_init__(self) -> None:
        self.walker = Walker(open=self.store.blobs.open, expect=self.store.blobs.expect)
        self.store.replicas.on_change = self._queue_replica

    async def run(self) -> None:
        """Follow the daemon until it is away. Raises a group of StoreUnavailable."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_events())
            await self.queue.get()  # the subscription was sent
            await self._list()
            await self._follow()

    def _queue_replica(self, replica: Replica) -> None:
        self.queue.put_nowait(ReplicaChanged(replica))

    async def _read_events(self) -> None:
        async with aclosing(self.store.client.events()) as events:
            async for event in events:
                self.queue.put_nowait(event)

    async def _list(self) -> None:
        """Send the whole inventory."""
        await self.store.replicas.load()
        self.images = await self.store.images()
        self.store.pulls.keep(self.images)
        # A blob's file may outlive the blob's record for a moment. containerd sends no event when
        # it deletes such a file, so blobs without a record are left out.
        listed = await self.store.records.list()
        await self.store.folder.locate(self.store.client, listed)
        here = listed & await self.store.blobs.all()
        for image in self.images.values():
            if image.target.digest not in self.contents:
                self.contents[image.target.digest] = await self.walker.reachable(image.target, here)
        self._update_origins()
        shared = filter(self._is_shared, self._held() & here)
        keys = [*map(str, shared), *self._replica_keys(here)]
        self.diff.replace(keys, self._tags(here))
        self.store.listed = self.images
        self.has_listed = True
        self.on_listed()
        if self.is_return:
            log.info(
                "containerd is back", socket=str(self.store.client.socket), images=len(self.images)
            )

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

    async def _apply(self, event: StoreEvent | ReplicaChanged) -> None:
        match event:
            case ImageChanged(name):
                await self._renew(name)
            case ReplicaChanged(replica):
                for name in (*replica.names, replica.key):
                    await self._renew(name)
            case ContentCreated(digest) | ContentDeleted(digest):
                self.store.records.drop(digest)
                await self._refresh_and_watch({digest})

    async def _renew(self, name: str) -> None:
        """Query one image, and check its content and that of its former target."""
        before = self.images.pop(name, None)
        touched = set(self.contents[before.target.digest]) if before else set()
        try:
            image = await self.store.image(name)
        except ContentNotFound:
            self.diff.remove([name])
        else:
            self.images[name] = image
            self.contents[image.target.digest] = await self.walker.reachable(image.target)
            touched |= self.contents[image.target.digest]
        if before and before.target.digest not in self._roots():
            del self.contents[before.target.digest]
        if self.filters:  # a pull adds its repository to the labels of existing blobs
            await self.store.records.query(touched)
        self._update_origins()
        await self._refresh_and_watch(touched)

    async def _refresh_and_watch(self, digests: AbstractSet[Digest]) -> None:
        await self._refresh(digests)
        self.gc_watch.begin(digests, asyncio.get_running_loop().time())

    async def _refresh(self, digests: AbstractSet[Digest]) -> frozenset[Digest]:
        """Announce or withdraw the digests, and the tags that point at them.

        Return the existing digests.
        """
        # The file of a blob that no image holds may stay for another namespace, so its record is
        # read.
        present = await self.store.blobs.present(digests, anew=digests - self._held())
        shared, tags = frozenset(filter(self._is_shared, present)), self._tags(present)
        self.diff.add(str(digest) for digest in shared)
        self.diff.add_tags(tags)
        self.diff.add(self._replica_keys(shared))
        here = {name for name, image in self.images.items() if image.target.digest in digests}
        # names without a tag are no keys
        self.diff.remove(name for name in here - tags.keys() if is_tag(name))
        self.diff.remove(str(digest) for digest in digests if digest not in shared)
        return present

    async def _relist(self) -> None:
        """Find images that changed without an event, and blobs that were deleted.

        Walk no other images.
        """
        held = self._held()
        shared, before = (
            {one for one in held if str(one) in self.diff},
            set(filter(self._is_shared, held)),
        )
        listed = await self.store.records.list()
        await self.store.folder.locate(self.store.client, listed)
        gone = shared - listed
        self._update_origins()
        if changed := gone | (before ^ set(filter(self._is_shared, held))):
            await self._refresh_and_watch(changed)
        now = await self.store.images()
        for name in now.keys() | self.images.keys():
            if now.get(name) != self.images.get(name):
                await self._renew(name)
        self.walker.keep(self._held())
        self.store.pulls.keep(self.images)

    def _held(self) -> frozenset[Digest]:
        """Return the content of all images, missing blobs included."""
        return frozenset().union(*(self.contents[root] for root in self._roots()))

    def _roots(self) -> set[Digest]:
        return {image.target.digest for image in self.images.values()}

    def _update_origins(self) -> None:
        """Record the origins of all images' content, if there are filters."""
        if not self.filters:
            return
        names: dict[Digest, set[str]] = {root: set() for root in self._roots()}
        for name, image in self.images.items():
            if repository := repository_of(name):
                names[image.target.digest].add(repository)
        found: dict[Digest, frozenset[str]] = {}
        for root, repositories in names.items():
            sources = self.store.origins.of_root(root, repositories)
            for digest in self.contents[root]:
                found[digest] = found.get(digest, frozenset()) | sources
        self.store.origins.of_images = found

    def _is_shared(self, digest: Digest) -> bool:
        """Return True if the filters let the content pass."""
        return not self.filters or self.filters.shares(self.store.origins.known(digest))

    def images_by_digest(self) -> list[str]:
        """Return the names `registry/repository@digest` whose content is announced."""
        return [
            name
            for name, image in self.images.items()
            if _is_by_digest(name)
            and (repository := repository_of(name))
            and not self.filters.exclude(repository)
            and self._is_shared(image.target.digest)
        ]

    def _replica_keys(self, digests: AbstractSet[Digest]) -> list[str]:
        """Return the keys of the replicas with these roots."""
        return [
            name
            for name, image in self.images.items()
            if is_replica_key(name)
            and image.target.digest in digests
            and self._is_shared(image.target.digest)
        ]

    def _tags(self, digests: AbstractSet[Digest]) -> dict[str, float]:
        """Return the announced tags of these digests, with the Unix times of their pulls."""
        return {
            name: self.store.pulls.of(image)
            for name, image in self.images.items()
            if image.target.digest in digests
            and is_tag(name)
            and not self.filters.exclude(name)
            and self._is_shared(image.target.digest)
        }


def _parse(name: str) -> Reference | None:
    try:
        return Reference.parse(name)
    except OCIError:
        return None


def _is_by_digest(name: str) -> bool:
    reference = _parse(name)
    return reference is not None and reference.digest is not None and reference.name is None
