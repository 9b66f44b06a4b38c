"""Following an image-layout folder: inotify events trigger listings, and listings decide.

An event's details are never trusted. So renames, copies in place, lost events and a replaced folder
are all handled by the same listing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from watchfiles import Change, awatch
from watchfiles.main import FileChange

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.manifest import OCI_INDEX, Child
from spegel_py.store.base import ContentEvent, Inventory, Tag
from spegel_py.store.layout.blob import PARTIAL
from spegel_py.store.layout.blob_verifier import BlobVerdict
from spegel_py.store.layout.folder import Scan, layout_identity, scan_blobs
from spegel_py.store.layout.layout_store import LayoutStore
from spegel_py.store.walker import Walker
from spegel_py.store.watching import Emit, InventoryDiff, watch_in_task
from spegel_py.tools.backoff import Backoff
from spegel_py.tools.cancellation import raise_if_cancelled

log = structlog.get_logger(__name__)

FIRST_INVENTORY = 2.0
"""Seconds after which the first inventory is sent with the blobs verified so far.

The rest follow as events.
"""

RELIST = 30.0
"""Seconds after which the folder is listed again without an event, since the kernel may drop
events.
"""

POLL = 2.0
"""Seconds between listings where the kernel has no inotify watch left."""

PAUSE = 0.05
"""Seconds between two listings at least, so that many changes cause one listing."""

RETRY_FIRST, RETRY_LAST = 0.1, 2.0
"""Seconds between checks for a folder that is away: the first pause, doubled up to the last."""

HASHERS = 2
"""Blobs verified at the same time."""


class LayoutWatcher:
    """The Watcher port over a LayoutStore's folder. They share the verdicts on blobs.

    Tags that `filters` exclude are left out. So is content that no image, or only excluded images,
    hold.
    """

    def __init__(self, *, store: LayoutStore, filters: Filters = EVERYTHING) -> None:
        self._store = store
        self._filters = filters

    def __repr__(self) -> str:
        return f"<LayoutWatcher {self._store.root}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return watch_in_task(self._run)

    async def _run(self, emit: Emit) -> None:
        backoff, is_away = Backoff(first=RETRY_FIRST, most=RETRY_LAST), False
        while True:
            session = _Session(self._store, InventoryDiff(emit), self._filters)
            try:
                layout_identity(self._store.root)
                if is_away:
                    log.info("image layout is back", root=str(self._store.root))
                is_away = False
                backoff.reset()
                await session.run()
            except* StoreUnavailable as group:
                if not is_away:
                    log.warning("image layout is away", error=str(group.exceptions[0]))
                is_away = True
            raise_if_cancelled()
            await asyncio.sleep(backoff.next())


@dataclass(slots=True)
class _Session:
    """A period in which the folder is there."""

    store: LayoutStore
    diff: InventoryDiff
    filters: Filters
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    queue: asyncio.PriorityQueue[tuple[int, Digest]] = field(default_factory=asyncio.PriorityQueue)
    queued: set[Digest] = field(default_factory=set)
    refused: frozenset[str] = frozenset()
    walker: Walker = field(init=False)

    def __post_init__(self) -> None:
        self.walker = Walker(open=self.store.open)

    async def run(self) -> None:
        """Follow the folder until it is away. Raises a group of StoreUnavailable."""
        await self.store.replicas.load()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_events())
            for _ in range(HASHERS):
                tasks.create_task(self._verify())
            await self._list()

    async def _list(self) -> None:
        started, has_announced = time.monotonic(), False
        while True:
            self.wake.clear()
            began = time.monotonic()
            scan, tags = (
                await asyncio.to_thread(scan_blobs, self.store.root),
                await self.store.tags(),
            )
            scan_seconds = time.monotonic() - began
            keys, due = self._judge(scan)
            tagged = {
                name: tag.pulled
                for name, tag in tags.items()
                if str(tag.digest) in keys or self._is_moving(name, tag.digest)
            }
            if self.filters:
                keys, tagged = await self._filtered(keys, tagged, tags)
            keys |= self._replica_keys(keys)
            if has_announced:
                self.diff.update(keys, tagged)
            elif not self.queued or time.monotonic() - started > FIRST_INVENTORY:
                self.diff.replace(keys, tagged)
                has_announced = True
            self._log_refused(scan.refused)
            await asyncio.sleep(max(PAUSE, 4 * scan_seconds))
            limit = RELIST if has_announced else FIRST_INVENTORY
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(limit, due - time.time()))):
                    await self.wake.wait()

    def _judge(self, scan: Scan) -> tuple[set[str], float]:
        """Return the keys of the good blobs and the time of the next listing.

        Queue unknown blobs for hashing.
        """
        keys: set[str] = set()
        due = time.time() + RELIST
        verdicts = self.store.verifier.verdicts
        verdicts.keep(scan.blobs)
        for digest, signature in scan.blobs.items():
            verdict, key = self.store.verifier.verdict(digest, signature), str(digest)
            # Case 1: the content is right, or was right when it was announced.
            if verdict is BlobVerdict.GOOD or (verdict is BlobVerdict.UNKNOWN and key in self.diff):
                keys.add(key)
            # Case 2: the content must be hashed. Small blobs come first: manifests are useful at
            # once.
            if verdict is BlobVerdict.UNKNOWN and digest not in self.queued:
                self.queued.add(digest)
                self.queue.put_nowait((signature.size, digest))
            # Case 3: the content was wrong. It may be hashed once the file stays unchanged.
            elif verdict in (BlobVerdict.UNSETTLED, BlobVerdict.BAD):
                now = time.time()
                soon = verdicts.due(digest, signature, now)
                due = min(due, soon) if soon > now else due
        return keys, due

    async def _verify(self) -> None:
        while True:
            _, digest = await self.queue.get()
            try:
                await self.store.stat(digest)
            except ContentNotFound:
                pass  # removed, or its verdict says what is wrong
            finally:
                self.queued.discard(digest)
                self.wake.set()

    async def _filtered(
        self, keys: Collection[str], tagged: Mapping[str, float], tags: Mapping[str, Tag]
    ) -> tuple[set[str], dict[str, float]]:
        """Return the keys and the tags that the filters let pass."""
        self.store.repositories = found = await self._repositories(tags)
        shared = {
            digest for digest, repositories in found.items() if self.filters.shares(repositories)
        }
        return {str(digest) for digest in shared if str(digest) in keys}, {
            name: pulled
            for name, pulled in tagged.items()
            if not self.filters.exclude(name) and tags[name].digest in shared
        }

    async def _repositories(self, tags: Mapping[str, Tag]) -> dict[Digest, frozenset[str]]:
        """Return the repositories whose tags lead to content, by its digest."""
        found: dict[Digest, set[str]] = {}
        for name, tag in tags.items():
            # An entry of index.json may have any media type, so the walker reads its content to
            # find out.
            for digest in await self.walker.reachable(Child(tag.digest, 0, OCI_INDEX)):
                found.setdefault(digest, set()).add(name.rpartition(":")[0])
        return {digest: frozenset(repositories) for digest, repositories in found.items()}

    def _replica_keys(self, keys: Collection[str]) -> set[str]:
        """Return the keys of the replicas whose root is among the keys."""
        return {
            replica.key
            for replica in self.store.replicas.held().values()
            if str(replica.image.root.digest) in keys
        }

    def _is_moving(self, name: str, digest: Digest) -> bool:
        """Return True for an announced tag whose new target is being verified; it stays."""
        return name in self.diff and digest in self.queued

    def _log_refused(self, refused: frozenset[str]) -> None:
        for name in sorted(refused - self.refused):
            log.warning("not a regular file, refused", root=str(self.store.root), name=name)
        self.refused = refused

    async def _read_events(self) -> None:
        root = self.store.root
        known, has_watch = layout_identity(root), False
        try:
            async with aclosing(_changes(root)) as batches:
                async for changes in batches:
                    self._check_same(known)
                    # a change between the first listing and the watch has no event
                    if changes or not has_watch:
                        self.wake.set()
                    has_watch = True
        except OSError as error:
            self._check_same(known)
            log.warning(
                "no inotify watch, listing by the clock",
                root=str(root),
                error=str(error),
                seconds=POLL,
            )
        while True:
            await asyncio.sleep(POLL)
            self._check_same(known)
            self.wake.set()

    def _check_same(self, known: tuple[int, int]) -> None:
        if layout_identity(self.store.root) != known:
            raise StoreUnavailable(
                f"the image layout {self.store.root} was replaced by another folder"
            )


def _changes(root: Path) -> AsyncGenerator[set[FileChange], None]:
    """Yield changes 200 to 600 ms after they happened, and an empty set every three seconds.

    The watching thread wakes up once in a step, with the interpreter's lock.
    """
    return awatch(
        root,
        watch_filter=_is_relevant,
        debounce=400,
        step=200,
        rust_timeout=3000,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )


def _is_relevant(_: Change, path: str) -> bool:
    return PARTIAL not in Path(path).parts
