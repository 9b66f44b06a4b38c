"""Scrubbing: a large blob is hashed once after it was first sent. A damaged blob is withdrawn.

A disk may damage content after its pull, and sending it would fail the pulls of all other nodes.
The hash comes after the first answer, which must not wait; the bytes are in the page cache then.
Small content is verified when it is first looked up.
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
from spegel_py.store.file_access import Signature
from spegel_py.store.watching import Emit, watch_in_task
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

PIECE = 1024 * 1024
"""Bytes hashed at a time; one piece takes 0.6 ms."""

REST = 3.0
"""Pause after each piece, as a multiple of the piece's time: the thread takes at most a quarter of
one processor.

A thread cannot lower its priority where the service manager forbids that call.
"""

QUEUE = 256
"""Blobs that wait to be hashed. A blob that finds the queue full is hashed after it is sent again.
"""

REMEMBERED = 16_384
"""Files known to be undamaged."""


class ScrubbedStore:
    """The Store port over a store whose content comes from files. `run` hashes what was opened.

    Args:
        store: The store to check.
        should_hash: Returns True if the next opened blob should be hashed.
        on_verified: Called with each result; True for an undamaged blob.
    """

    def __init__(
        self, *, store: Store, should_hash: Callable[[], bool], on_verified: Callable[[bool], None]
    ) -> None:
        self._store = store
        self._should_hash = should_hash
        self._on_verified = on_verified
        self._right: BoundedDict[Digest, Signature] = BoundedDict(limit=REMEMBERED)
        self._damaged: dict[Digest, Signature] = {}
        self._queue: OrderedDict[Digest, None] = OrderedDict()
        self._news = asyncio.Event()
        self.on_damaged: Callable[[Digest], None] = lambda digest: None
        """Called with the digest of a blob that was just found damaged."""

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
            self._enqueue(digest, content)

    @property
    def damaged(self) -> int:
        """The number of blobs whose copies here are known to be damaged."""
        return len(self._damaged)

    async def is_damaged(self, digest: Digest) -> bool:
        """Return True if the copy of this content here is known to be damaged."""
        if digest in self._damaged:
            with suppress(StoreError):
                await self.stat(digest)
        return digest in self._damaged

    async def run(self) -> None:
        """Hash the opened blobs one after the other, until cancelled."""
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
        """Raise ContentNotFound for a damaged file. Its replacement is trusted."""
        if _signature(content) == self._damaged[digest]:
            raise ContentNotFound(f"the copy of {digest} here is damaged")
        del self._damaged[digest]

    def _enqueue(self, digest: Digest, content: Content) -> None:
        """Queue content that was sent if it is a large file that is not known to be undamaged."""
        if (
            content.size <= MAX_MANIFEST
            or (signature := _signature(content)) is None
            or digest in self._queue
        ):
            return
        if (
            self._right.get(digest) != signature
            and len(self._queue) < QUEUE
            and self._should_hash()
        ):
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
        self._on_verified(is_right)
        if is_right:
            self._right[digest] = signature
        else:
            self._damaged[digest] = signature
            log.warning("content damaged", digest=str(digest), size=signature.size)
            self.on_damaged(digest)


class ScrubbedWatcher:
    """The Watcher port over another watcher.

    Damaged blobs are removed, and added again when replaced.
    """

    def __init__(self, *, watcher: Watcher, store: ScrubbedStore) -> None:
        self._watcher = watcher
        self._store = store

    def __repr__(self) -> str:
        return f"<ScrubbedWatcher {self._watcher!r}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return watch_in_task(self._run)

    async def _run(self, emit: Emit) -> None:
        self._store.on_damaged = lambda digest: emit(ContentEvent(Change.REMOVED, str(digest)))
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
    """Return the hash of a file in hexadecimal digits, computed slowly in a thread."""
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
