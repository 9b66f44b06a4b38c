"""Content that is being written by another process: its file is open here, and the kernel tells when it grows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from spegel_py.errors import StoreError
from spegel_py.store.files import open_below, opened
from spegel_py.store.inotify import Inotify

log = structlog.get_logger(__name__)

LOOK = 0.5
"""Seconds after which a file is looked at though the kernel told nothing: an event may have been lost."""

POLL = 0.05
"""Seconds between looks where the kernel gives no watch."""

_SHORT = 4096
"""Bytes that are read of the small files beside one that grows: containerd's have 100 at most."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that was found open for writing, or left so: its descriptor, where it lies, and its `total`."""

    fd: int
    path: Path
    total: int | None

    def is_here(self) -> bool:
        """Say whether the file lies there still: one that does not was committed, or thrown away."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.lstat())
        except OSError:
            return False


@asynccontextmanager
async def following(find: Callable[[], Found], inotify: Inotify) -> AsyncIterator[Growing]:
    """Give what `find` finds, in a thread, as it grows; it raises what that raises."""
    found = await opened(find, lambda unused: os.close(unused.fd))
    try:
        growing = Growing(fd=found.fd, total=found.total, is_here=found.is_here)
        with growing.watched_by(inotify):
            yield growing
    finally:
        os.close(found.fd)


def read_short(root: Path, *parts: str) -> str:
    """Return what a small file below `root` says; nothing where there is none."""
    try:
        fd = open_below(root, *parts)
    except StoreError:
        return ""
    try:
        return os.read(fd, _SHORT).decode(errors="replace").strip()
    finally:
        os.close(fd)


def as_total(text: str) -> int | None:
    """Return the length that such a file says."""
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


class Growing:
    """The Ingest port over a descriptor; whoever learns of a change calls `tell`.

    `is_here` says whether the file still lies where its writer has it.
    """

    def __init__(self, *, fd: int, total: int | None, is_here: Callable[[], bool] = lambda: True) -> None:
        self.fd = fd
        self.total = total
        self.is_over = False
        self._is_here = is_here
        self._look = POLL
        self._waiting: dict[asyncio.Future[None], int] = {}

    def __repr__(self) -> str:
        return f"<Growing {self.size} of {self.total} bytes{', over' if self.is_over else ''}>"

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    @property
    def is_complete(self) -> bool:
        return self.total is not None and self.size >= self.total

    async def grown(self, beyond: int) -> None:
        while not self.is_over and self.size <= beyond:
            changed = asyncio.get_running_loop().create_future()
            self._waiting[changed] = beyond
            try:
                await asyncio.wait([changed], timeout=self._look)
            finally:
                del self._waiting[changed]
            if not changed.done() and not self._is_here():
                self.is_over = True

    async def over(self) -> None:
        await self.grown(sys.maxsize)

    def tell(self, is_over: bool) -> None:
        """Wake who waits for what is there now; with True nobody writes any more, and all are woken."""
        self.is_over = self.is_over or is_over
        size = self.size
        for changed, beyond in self._waiting.items():
            if (self.is_over or size > beyond) and not changed.done():
                changed.set_result(None)

    @contextmanager
    def watched_by(self, inotify: Inotify) -> Iterator[Growing]:
        """Have the kernel tell of changes while the block lasts; where it cannot the file is looked at by the clock."""
        with ExitStack() as stack:
            try:
                stack.enter_context(inotify.watching(self.fd, self.tell))
                self._look = LOOK
            except OSError as error:
                log.warning("no inotify watch, looking by the clock", error=str(error), seconds=POLL)
            self.is_over = not self._is_here()  # it may have been closed before the watch began
            yield self
