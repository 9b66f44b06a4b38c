"""Following an image-layout folder: told by inotify, decided by listing it again.

What an event of the kernel says is never believed in detail: it only wakes a listing, so that renames, copies
in place, events lost in an overflow and a folder that was swapped for another all come out right.
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
from spegel_py.store.layout import folder
from spegel_py.store.layout.blob import PARTIAL
from spegel_py.store.layout.store import LayoutStore
from spegel_py.store.layout.verify import BlobVerdict
from spegel_py.store.walker import Walker
from spegel_py.store.watching import Emit, InventoryDiff, watch_in_task
from spegel_py.tools.backoff import Backoff

log = structlog.get_logger(__name__)

FIRST_INVENTORY = 2.0
"""Seconds after which the inventory is given with what is verified until then; the rest follows as events."""

RELIST = 30.0
"""Seconds after which the folder is listed again though the kernel told nothing (it may drop events)."""

POLL = 2.0
"""Seconds between listings where the kernel gives no more inotify watches."""

PAUSE = 0.05
"""Seconds between two listings, at least: many changes make one listing."""

RETRY_FIRST, RETRY_LAST = 0.1, 2.0
"""Seconds between looks for a folder that is away: the first pause, doubled up to the last."""

HASHERS = 2
"""Blobs verified at the same time."""


class LayoutWatcher:
    """The Watcher port over the folder of a LayoutStore, whose verdicts on blobs it shares.

    Tags that `filters` exclude are not told, nor is content that only such images hold, or none.
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
                folder.identity(self._store.root)
                if is_away:
                    log.info("image layout is back", root=str(self._store.root))
                is_away = False
                backoff.reset()
                await session.run()
            except* StoreUnavailable as group:
                if not is_away:
                    log.warning("image layout is away", error=str(group.exceptions[0]))
                is_away = True
            await asyncio.sleep(backoff.next())


@dataclass(slots=True)
class _Session:
    """One stretch of time in which the folder is there."""

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
        """Follow the folder until it goes away; raises a group of StoreUnavailable."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear())
            for _ in range(HASHERS):
                tasks.create_task(self._verify())
            await self._list()

    async def _list(self) -> None:
        started, has_told = time.monotonic(), False
        while True:
            self.wake.clear()
            began = time.monotonic()
            scan, tags = (
                await asyncio.to_thread(folder.scan, self.store.root),
                await self.store.tags(),
            )
            took = time.monotonic() - began
            keys, due = self._judge(scan)
            told = {
                name: tag.pulled
                for name, tag in tags.items()
                if str(tag.digest) in keys or self._is_moving(name, tag.digest)
            }
            if self.filters:
                keys, told = await self._filtered(keys, told, tags)
            if has_told:
                self.diff.update(keys, told)
            elif not self.queued or time.monotonic() - started > FIRST_INVENTORY:
                self.diff.replace(keys, told)
                has_told = True
            self._name_refused(scan.refused)
            await asyncio.sleep(max(PAUSE, 4 * took))
            limit = RELIST if has_told else FIRST_INVENTORY
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(limit, due - time.time()))):
                    await self.wake.wait()

    def _judge(self, scan: folder.Scan) -> tuple[set[str], float]:
        """Return the keys of the good blobs and when to look again; have the unknown ones verified."""
        keys: set[str] = set()
        due = time.time() + RELIST
        verdicts = self.store.verifier.verdicts
        verdicts.keep(scan.blobs)
        for digest, signature in scan.blobs.items():
            verdict, key = self.store.verifier.verdict(digest, signature), str(digest)
            if verdict is BlobVerdict.GOOD or (verdict is BlobVerdict.UNKNOWN and key in self.diff):
                keys.add(key)
            if verdict is BlobVerdict.UNKNOWN and digest not in self.queued:
                self.queued.add(digest)
                self.queue.put_nowait(
                    (signature.size, digest)
                )  # small first: manifests are of use at once
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
                pass  # gone, or the verdict says what is wrong with it
            finally:
                self.queued.discard(digest)
                self.wake.set()

    async def _filtered(
        self, keys: Collection[str], told: Mapping[str, float], tags: Mapping[str, Tag]
    ) -> tuple[set[str], dict[str, float]]:
        """Return those of the keys, and of the tags that are told, that no filter keeps here."""
        self.store.named = named = await self._reported(tags)
        shared = {
            digest for digest, repositories in named.items() if self.filters.shares(repositories)
        }
        return {str(digest) for digest in shared if str(digest) in keys}, {
            name: pulled
            for name, pulled in told.items()
            if not self.filters.exclude(name) and tags[name].digest in shared
        }

    async def _reported(self, tags: Mapping[str, Tag]) -> dict[Digest, frozenset[str]]:
        """Return the repositories whose tags reach content, by its digest."""
        named: dict[Digest, set[str]] = {}
        for name, tag in tags.items():
            # index.json may say anything of its entries: whether one is a manifest is seen by reading it
            for digest in await self.walker.reachable(Child(tag.digest, 0, OCI_INDEX)):
                named.setdefault(digest, set()).add(name.rpartition(":")[0])
        return {digest: frozenset(repositories) for digest, repositories in named.items()}

    def _is_moving(self, name: str, digest: Digest) -> bool:
        """Say whether a tag that was told points at something that is being verified: it is not gone meanwhile."""
        return name in self.diff and digest in self.queued

    def _name_refused(self, refused: frozenset[str]) -> None:
        for name in sorted(refused - self.refused):
            log.warning("not a regular file, refused", root=str(self.store.root), name=name)
        self.refused = refused

    async def _hear(self) -> None:
        root = self.store.root
        known, is_heard = folder.identity(root), False
        try:
            async with aclosing(_changes(root)) as batches:
                async for changes in batches:
                    self._check_same(known)
                    if (
                        changes or not is_heard
                    ):  # what came after the first listing and before the watch is not told
                        self.wake.set()
                    is_heard = True
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
        if folder.identity(self.store.root) != known:
            raise StoreUnavailable(
                f"the image layout {self.store.root} was replaced by another folder"
            )


def _changes(root: Path) -> AsyncGenerator[set[FileChange], None]:
    """Yield changes 50 to 400 ms after they happened, and an empty set every second."""
    return awatch(
        root,
        watch_filter=_is_relevant,
        debounce=400,
        step=50,
        rust_timeout=1000,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )


def _is_relevant(_: Change, path: str) -> bool:
    return PARTIAL not in Path(path).parts
