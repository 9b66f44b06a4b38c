"""Content that is being written by another process: its file is open here, and the kernel tells when it grows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from spegel_py.oci.digest import Digest
from spegel_py.store.files import FileAccess, open_cached_or_thread
from spegel_py.store.inotify import Inotify

log = structlog.get_logger(__name__)

RECHECK = 2.0
"""Seconds after which a file is looked at though the kernel told nothing: an event may have been lost."""

POLL = 0.05
"""Seconds between looks where the kernel gives no watch."""


@dataclass(frozen=True, slots=True)
class IngestFile:
    """A file that was found open for writing, or left so: its descriptor, where it lies, and its `total`."""

    fd: int
    path: Path
    total: int | None

    def is_in_place(self) -> bool:
        """Say whether the file lies there still: one that does not was committed, or thrown away."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.lstat())
        except OSError:
            return False


class GrowingFiles:
    """The files that are followed now, by what they become. `find` finds one, at once or in a thread; whoever opens one
    that is open already shares it: a node of whom many take a layer looks for it once."""

    def __init__(self, find: Callable[[Digest, FileAccess], IngestFile]) -> None:
        self._find = find
        self._inotify = Inotify()
        self._open_files: dict[Digest, _OpenFile] = {}

    def __repr__(self) -> str:
        return f"<Following {len(self._open_files)} by {self._inotify!r}>"

    def has(self, digest: Digest) -> bool:
        """Say whether one is open that goes on growing."""
        return digest in self._open_files and self._open_files[digest].growing.is_growing

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[GrowingFile]:
        """Give the file as it grows; raises what `find` raises."""
        file = self._open_files[digest] if self.has(digest) else await self._begin(digest)
        file.users += 1
        try:
            yield file.growing
        finally:
            file.users -= 1
            if not file.users:
                file.stack.close()
                if self._open_files.get(digest) is file:
                    del self._open_files[digest]

    async def _begin(self, digest: Digest) -> _OpenFile:
        found = await open_cached_or_thread(
            partial(self._find, digest), lambda unused: os.close(unused.fd)
        )
        with ExitStack() as stack:
            stack.callback(os.close, found.fd)
            growing = GrowingFile(fd=found.fd, total=found.total, is_in_place=found.is_in_place)
            stack.enter_context(growing.watched_by(self._inotify))
            self._open_files[digest] = _OpenFile(growing, stack.pop_all())
        return self._open_files[digest]


@dataclass(slots=True)
class _OpenFile:
    """A file that is open until `stack` ends, with how many use it."""

    growing: GrowingFile
    stack: ExitStack
    users: int = 0


def parse_total(text: str) -> int | None:
    """Return the length that such a file says."""
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


class GrowingFile:
    """The Ingest port over a descriptor; whoever learns of a change calls `tell`.

    `is_here` says whether the file still lies where its writer has it.
    """

    def __init__(
        self, *, fd: int, total: int | None, is_in_place: Callable[[], bool] = lambda: True
    ) -> None:
        self.fd = fd
        self.total = total
        self.is_over = False
        self._is_in_place = is_in_place
        self._timer: asyncio.TimerHandle
        self._waiting: dict[asyncio.Future[None], int] = {}

    def __repr__(self) -> str:
        return f"<Growing {self.size} of {self.total} bytes{', over' if self.is_over else ''}>"

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    @property
    def is_complete(self) -> bool:
        return self.total is not None and self.size >= self.total

    @property
    def is_growing(self) -> bool:
        """Whether somebody writes it still, as far as can be seen, who said how long it will be."""
        return not self.is_over and self.total is not None and self._is_in_place()

    async def wait_beyond(self, beyond: int) -> None:
        while not self.is_over and self.size <= beyond:
            changed = asyncio.get_running_loop().create_future()
            self._waiting[changed] = beyond
            try:
                await changed
            finally:
                del self._waiting[changed]

    async def wait_over(self) -> None:
        await self.wait_beyond(sys.maxsize)

    def notify(self, is_over: bool) -> None:
        """Wake who waits for what is there now; with True nobody writes any more, and all are woken."""
        self.is_over = self.is_over or is_over
        size = self.size
        for changed, beyond in self._waiting.items():
            if (self.is_over or size > beyond) and not changed.done():
                changed.set_result(None)

    @contextmanager
    def watched_by(self, inotify: Inotify) -> Iterator[GrowingFile]:
        """Have the kernel tell of changes while the block lasts; where it cannot the file is looked at by the clock."""
        with ExitStack() as stack:
            interval = RECHECK
            try:
                stack.enter_context(inotify.watching(self.fd, self.notify))
            except OSError as error:
                interval = POLL
                log.warning(
                    "no inotify watch, looking by the clock", error=str(error), seconds=interval
                )
            self._recheck(interval)  # it may have been closed before the watch began
            try:
                yield self
            finally:
                self._timer.cancel()

    def _recheck(self, again: float) -> None:
        """Look whatever was told, now and every so many seconds."""
        self.notify(not self._is_in_place())
        self._timer = asyncio.get_running_loop().call_later(again, self._recheck, again)
