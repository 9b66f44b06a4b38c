"""Files that another process is writing: opened here, and followed as they grow."""

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
from spegel_py.store.file_access import FileAccess, open_cached_or_thread
from spegel_py.store.inotify import Inotify

log = structlog.get_logger(__name__)

RECHECK = 2.0
"""Seconds between checks of a watched file: the kernel may have lost an event."""

POLL = 0.05
"""Seconds between checks of a file that the kernel gives no watch for."""


@dataclass(frozen=True, slots=True)
class IngestFile:
    """An ingest's file: its descriptor, its path, and its final length `total` if known.

    Its writer may be gone.
    """

    fd: int
    path: Path
    total: int | None

    def is_in_place(self) -> bool:
        """Return True if the file still has its path.

        A writer moves it to commit it, and deletes it to give up.
        """
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.lstat())
        except OSError:
            return False


class GrowingFiles:
    """The open files that still grow, by the digest of their content.

    Args:
        find: Finds and opens the file of a digest. It is called at once, or else in a thread.

    Readers of one file share it, so a layer that many peers take is looked for once.
    """

    def __init__(self, find: Callable[[Digest, FileAccess], IngestFile]) -> None:
        self._find = find
        self._inotify = Inotify()
        self._open_files: dict[Digest, _OpenFile] = {}

    def __repr__(self) -> str:
        return f"<GrowingFiles {len(self._open_files)} by {self._inotify!r}>"

    def has(self, digest: Digest) -> bool:
        """Return True if the file is open here and still grows."""
        return digest in self._open_files and self._open_files[digest].growing.is_growing

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[GrowingFile]:
        """Open the file of this content. Raises the errors of `find`."""
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
    """An open file with its number of users. Closing `stack` closes it."""

    growing: GrowingFile
    stack: ExitStack
    users: int = 0


def parse_total(text: str) -> int | None:
    """Return the length written in a `total` file; None if it is malformed or 0."""
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


class GrowingFile:
    """The Ingest port over a descriptor. Its creator calls `notify` after each change.

    `is_in_place` returns True while the file still has its writer's path.
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
        return f"<GrowingFile {self.size} of {self.total} bytes{', over' if self.is_over else ''}>"

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    @property
    def is_complete(self) -> bool:
        return self.total is not None and self.size >= self.total

    @property
    def is_growing(self) -> bool:
        """Whether the file has a known length and, as far as can be seen, a writer."""
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
        """Wake the tasks that wait for bytes that exist now, and all tasks if the writer has
        stopped.
        """
        self.is_over = self.is_over or is_over
        size = self.size
        for changed, beyond in self._waiting.items():
            if (self.is_over or size > beyond) and not changed.done():
                changed.set_result(None)

    @contextmanager
    def watched_by(self, inotify: Inotify) -> Iterator[GrowingFile]:
        """Follow the file by kernel events while the block lasts, or by a timer where there is no
        watch.
        """
        with ExitStack() as stack:
            interval = RECHECK
            try:
                stack.enter_context(inotify.watching(self.fd, self.notify))
            except OSError as error:
                interval = POLL
                log.warning(
                    "no inotify watch, looking by the clock", error=str(error), seconds=interval
                )
            self._recheck(interval)  # the writer may have stopped before the watch began
            try:
                yield self
            finally:
                self._timer.cancel()

    def _recheck(self, again: float) -> None:
        """Check the file now, and again every `again` seconds."""
        self.notify(not self._is_in_place())
        self._timer = asyncio.get_running_loop().call_later(again, self._recheck, again)
