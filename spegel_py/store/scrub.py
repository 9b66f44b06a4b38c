"""Scrubbing: large blobs are hashed once after they were first sent, and a damaged one is neither told nor sent again.

A disk may damage what was right when it was pulled, and what it gives would fail the pulls of every other node.
Afterwards, since the first answer must not wait, and the bytes are in the page cache then. Small content is verified
whenever it is first looked at.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import structlog

from spegel_py.errors import ContentNotFound, DigestInvalid, StoreError
from spegel_py.oci.digest import Digest, Hasher
from spegel_py.oci.manifest import MAX_MANIFEST
from spegel_py.store.base import (
    Change,
    Content,
    ContentEvent,
    Descriptor,
    Inventory,
    Store,
    Tag,
    Watcher,
)
from spegel_py.store.files import Signature
from spegel_py.store.watching import Emit, watch_in_task
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

PIECE = 1024 * 1024
"""Bytes hashed at a time: 0.6 ms."""

REST = 3.0
"""After each piece the thread rests this many times as long as it took: a quarter of one processor at most. A lower
priority is not for a thread to ask for, where the service manager allows no call for it."""

QUEUE = 256
"""Blobs that wait to be hashed; what comes beyond that is hashed when it is sent again."""

REMEMBERED = 16_384
"""Files known to be right."""


class ScrubbedStore:
    """The Store port over another one whose content comes in files; `run` hashes what was opened and is not known.

    `wants` decides about each, `verified` is told each verdict.
    """

    def __init__(
        self, *, store: Store, wants: Callable[[], bool], verified: Callable[[bool], None]
    ) -> None:
        self._store = store
        self._wants = wants
        self._verified = verified
        self._right: BoundedDict[Digest, Signature] = BoundedDict(limit=REMEMBERED)
        self._damaged: dict[Digest, Signature] = {}
        self._queue: OrderedDict[Digest, None] = OrderedDict()
        self._news = asyncio.Event()
        self.withdraw: Callable[[Digest], None] = lambda digest: None
        """Called with what was found damaged just now."""

    def __repr__(self) -> str:
        return (
            f"<ScrubbedStore {self._store!r} right={len(self._right)} damaged={len(self._damaged)}>"
        )

    async def resolve(self, name: str) -> Tag:
        return await self._store.resolve(name)

    async def stat(self, digest: Digest) -> Descriptor:
        if digest in self._damaged:
            async with self.open(digest) as content:
                return Descriptor(digest, content.size)
        return await self._store.stat(digest)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        async with self._store.open(digest) as content:
            if digest in self._damaged:
                self._check(digest, content)
            yield content
            self._note(digest, content)

    async def is_damaged(self, digest: Digest) -> bool:
        """Say whether what is here under this digest now is known to be damaged."""
        if digest in self._damaged:
            with suppress(StoreError):
                await self.stat(digest)
        return digest in self._damaged

    async def run(self) -> None:
        """Hash what was sent, one blob after the other, until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="scrub") as pool:
            while True:
                while not self._queue:
                    self._news.clear()
                    await self._news.wait()
                digest, _ = self._queue.popitem(last=False)
                try:
                    await self._scrub(digest, pool)
                except StoreError as error:
                    log.info("not scrubbed", digest=str(digest), error=str(error))

    def _check(self, digest: Digest, content: Content) -> None:
        """Raise ContentNotFound for a damaged file; one that took its place is as good as any."""
        if _signature(content) == self._damaged[digest]:
            raise ContentNotFound(f"the copy of {digest} here is damaged")
        del self._damaged[digest]

    def _note(self, digest: Digest, content: Content) -> None:
        """Have content hashed that was sent, if it comes in a file, is large, and not known to be right."""
        if (
            content.size <= MAX_MANIFEST
            or (signature := _signature(content)) is None
            or digest in self._queue
        ):
            return
        if self._right.get(digest) != signature and len(self._queue) < QUEUE and self._wants():
            self._queue[digest] = None
            self._news.set()

    async def _scrub(self, digest: Digest, pool: ThreadPoolExecutor) -> None:
        async with self._store.open(digest) as content:
            signature = _signature(content)
            if signature is None or content.fd is None:
                return
            try:
                is_right = await _hash(digest, content.fd, pool) == digest.hex
            except OSError:  # a sector that cannot be read
                is_right = False
        self._verified(is_right)
        if is_right:
            self._right[digest] = signature
        else:
            self._damaged[digest] = signature
            log.warning("content damaged", digest=str(digest), size=signature.size)
            self.withdraw(digest)


class ScrubbedWatcher:
    """The Watcher port over another one: what the store found damaged is removed, and added when it was replaced."""

    def __init__(self, *, watcher: Watcher, store: ScrubbedStore) -> None:
        self._watcher = watcher
        self._store = store

    def __repr__(self) -> str:
        return f"<ScrubbedWatcher {self._watcher!r}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return watch_in_task(self._run)

    async def _run(self, emit: Emit) -> None:
        self._store.withdraw = lambda digest: emit(ContentEvent(Change.REMOVED, str(digest)))
        async for event in self._watcher.watch():
            match event:
                case Inventory(keys, pulled):
                    emit(
                        Inventory(
                            frozenset([key for key in keys if not await self._is_damaged(key)]),
                            pulled,
                        )
                    )
                case ContentEvent(Change.ADDED, key) if await self._is_damaged(key):
                    continue
                case _:
                    emit(event)

    async def _is_damaged(self, key: str) -> bool:
        try:
            return await self._store.is_damaged(Digest.parse(key))
        except DigestInvalid:
            return False  # a tag


def _signature(content: Content) -> Signature | None:
    return None if content.fd is None else Signature.of(os.fstat(content.fd))


async def _hash(digest: Digest, fd: int, pool: ThreadPoolExecutor) -> str:
    """Return the hash of a file in hexadecimal digits, computed in a thread that is in no hurry."""
    loop, hasher, offset = asyncio.get_running_loop(), digest.hasher(), 0
    while True:
        began = time.monotonic()
        count = await loop.run_in_executor(pool, _update, hasher, fd, offset)
        if not count:
            return hasher.hexdigest()
        offset += count
        await asyncio.sleep(REST * (time.monotonic() - began))


def _update(hasher: Hasher, fd: int, offset: int) -> int:
    piece = os.pread(fd, PIECE, offset)
    hasher.update(piece)
    return len(piece)
