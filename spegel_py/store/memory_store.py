"""A store in memory with its watcher and its ingests, for tests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from spegel_py.errors import ContentNotFound, ManifestInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child, children
from spegel_py.oci.reference import is_tag
from spegel_py.store.base import (
    Change,
    Content,
    ContentEvent,
    Descriptor,
    Ingest,
    Inventory,
    PlatformImage,
    PulledImage,
    Replica,
    Tag,
)
from spegel_py.store.growing import GrowingFile

PIECE = 1024 * 1024
"""Bytes of the longest piece that `read` yields, as the Content port says."""


class MemoryStore:
    """The Store port over a dict. Tests add and remove content, and simulate an outage."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._names: dict[str, Tag] = {}
        self.replicas: dict[Digest, Replica] = {}
        """The replicas by their manifests' digests; MemoryReplicas changes them."""
        self.parts: dict[Digest, bytearray] = {}
        """The bytes of unfinished content; MemoryImageWriter changes them."""
        self.written: list[PlatformImage] = []
        """The images that are being written: their content is not collected."""
        self.room: int | None = None
        """Bytes that may still be written; None for no limit."""
        self._is_away = False
        self._subscribers: set[asyncio.Queue[Inventory | ContentEvent]] = set()

    def __repr__(self) -> str:
        names = sorted(self._names)
        return f"<MemoryStore blobs={len(self._blobs)} names={names} away={self._is_away}>"

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all content, tags and replicas."""
        digests = {str(digest) for digest in self._blobs}
        return frozenset(self._tags()) | digests | {one.key for one in self.replicas.values()}

    def add(self, data: bytes, *names: str, algorithm: str = "sha256") -> Digest:
        """Add `data` and point these full tag names at it. Return its digest."""
        digest = Digest.of(data, algorithm)
        if digest not in self._blobs:
            self._blobs[digest] = data
            self._emit(ContentEvent(Change.ADDED, str(digest)))
        for name in names:
            self.tag(name, digest)
        return digest

    def tag(self, name: str, digest: Digest, *, pulled: float | None = None) -> None:
        """Point `name` at `digest`, pulled now or at the Unix time `pulled`."""
        change = Change.RENEWED if name in self._names else Change.ADDED
        self._names[name] = Tag(digest, time.time() if pulled is None else pulled)
        self._emit(ContentEvent(change, name, self._names[name].pulled))

    def remove(self, key: Digest | str) -> None:
        """Remove a piece of content or a tag, if it exists. A replica's tag stays."""
        before = self.keys
        if isinstance(key, str):
            self._names.pop(key, None)
        else:
            self._blobs.pop(key, None)
        self._emit_difference(before)

    def has(self, digest: Digest) -> bool:
        """Return True if the content is here."""
        return digest in self._blobs

    def collect(self) -> int:
        """Remove all content that neither a tag nor a replica leads to, as a runtime does.

        Return the bytes that were removed.
        """
        kept = [*self.written, *(replica.image for replica in self.replicas.values())]
        reached = {blob.digest for image in kept for blob in image.blobs}
        to_read = [tag.digest for tag in self._names.values()]
        while to_read:
            digest = to_read.pop()
            if digest not in reached and digest in self._blobs:
                reached.add(digest)
                with suppress(ManifestInvalid):
                    to_read += [child.digest for child in children(self._blobs[digest])]
        gone = self._blobs.keys() - reached
        freed = sum(len(self._blobs[digest]) for digest in gone)
        for digest in gone:
            self.remove(digest)
        return freed

    def pulled(self) -> list[PulledImage]:
        """Return the tags that a test added, as the images of a runtime."""
        self.check_here()
        return [
            PulledImage(name, Child(tag.digest, 0, ""), tag.pulled)
            for name, tag in self._names.items()
        ]

    def hold(self, replica: Replica) -> None:
        """Add a replica, in place of another one of the same image."""
        before = self.keys
        self.replicas[replica.image.manifest] = replica
        self._emit_difference(before)

    def release(self, manifest: Digest) -> None:
        """Remove a replica. Its content stays until `collect`."""
        before = self.keys
        self.replicas.pop(manifest, None)
        self._emit_difference(before)

    def leave(self) -> None:
        """Begin an outage: every read raises StoreUnavailable, and watchers get no events."""
        self._is_away = True

    def come_back(self) -> None:
        """End the outage. Watchers get a new Inventory."""
        self._is_away = False
        self._emit(self._inventory())

    async def resolve(self, name: str) -> Tag:
        self.check_here()
        try:
            return self._tags()[name]
        except KeyError:
            raise ContentNotFound(f"no tag {name}") from None

    async def stat(self, digest: Digest) -> Descriptor:
        return Descriptor(digest, len(self._find(digest)))

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        yield MemoryContent(self._find(digest))

    def subscribe(self) -> asyncio.Queue[Inventory | ContentEvent]:
        """Return a queue that gets every change from now on.

        It starts with the present inventory, except during an outage.
        """
        queue: asyncio.Queue[Inventory | ContentEvent] = asyncio.Queue()
        self._subscribers.add(queue)
        if not self._is_away:
            queue.put_nowait(self._inventory())
        return queue

    def unsubscribe(self, queue: asyncio.Queue[Inventory | ContentEvent]) -> None:
        """Stop sending changes to the queue."""
        self._subscribers.discard(queue)

    def _inventory(self) -> Inventory:
        return Inventory(self.keys, {name: tag.pulled for name, tag in self._tags().items()})

    def _tags(self) -> dict[str, Tag]:
        """Return the tags, those of replicas included."""
        of_replicas = {
            name: Tag(replica.image.root.digest, pulled)
            for replica in self.replicas.values()
            for name, pulled in replica.names.items()
            if is_tag(name)
        }
        return of_replicas | self._names

    def _emit_difference(self, before: frozenset[str]) -> None:
        """Send the keys that were added or removed since `before`."""
        for key in sorted(before - self.keys):
            self._emit(ContentEvent(Change.REMOVED, key))
        tags = self._tags()
        for key in sorted(self.keys - before):
            pulled = tags[key].pulled if key in tags else None
            self._emit(ContentEvent(Change.ADDED, key, pulled))

    def _find(self, digest: Digest) -> bytes:
        self.check_here()
        try:
            return self._blobs[digest]
        except KeyError:
            raise ContentNotFound(f"no content {digest}") from None

    def check_here(self) -> None:
        """Raise StoreUnavailable during an outage."""
        if self._is_away:
            raise StoreUnavailable("the memory store is away")

    def _emit(self, event: Inventory | ContentEvent) -> None:
        if not self._is_away:
            for queue in self._subscribers:
                queue.put_nowait(event)


@dataclass(frozen=True, slots=True)
class MemoryContent:
    """The Content port over bytes. It has no descriptor, so senders use `read`."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def fd(self) -> None:
        return None

    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        end = start + length
        if end > len(self.data):
            raise StoreUnavailable(f"content of {len(self.data)} bytes ends before byte {end}")
        for at in range(start, end, PIECE):
            yield self.data[at : min(at + PIECE, end)]


class MemoryWatcher:
    """The Watcher port over a MemoryStore."""

    def __init__(self, *, store: MemoryStore) -> None:
        self._store = store

    async def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        queue = self._store.subscribe()
        try:
            while True:
                yield await queue.get()
        finally:
            self._store.unsubscribe(queue)


class MemoryIngests:
    """The Ingests port over files in memory, which tests write."""

    def __init__(self) -> None:
        self._parts: dict[Digest, _Part] = {}

    def begin(self, digest: Digest, *, total: int | None = None) -> None:
        """Start an ingest of this content."""
        self._parts[digest] = _Part(os.memfd_create("ingest"), total)

    def write(self, digest: Digest, data: bytes) -> None:
        """Append bytes to the ingest."""
        os.write(self._parts[digest].fd, data)
        self._parts[digest].notify(is_over=False)

    def end(self, digest: Digest) -> None:
        """End the ingest: it cannot be opened any more, and its readers keep the bytes."""
        part = self._parts.pop(digest)
        part.notify(is_over=True)
        os.close(part.fd)

    def readers(self, digest: Digest) -> list[GrowingFile]:
        """Return the open readers of the ingest."""
        return self._parts[digest].readers

    def has_open(self, digest: Digest) -> bool:
        return digest in self._parts and bool(self._parts[digest].readers)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Ingest]:
        if (part := self._parts.get(digest)) is None:
            raise ContentNotFound(f"{digest} is not being pulled")
        reader = GrowingFile(fd=os.dup(part.fd), total=part.total)
        part.readers.append(reader)
        try:
            yield reader
        finally:
            part.readers.remove(reader)
            os.close(reader.fd)


@dataclass(slots=True)
class _Part:
    fd: int
    total: int | None
    readers: list[GrowingFile] = field(default_factory=list)

    def notify(self, *, is_over: bool) -> None:
        for reader in self.readers:
            reader.notify(is_over)
