"""Content that is a regular file on this machine: opened safely, read by position."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spegel_py.errors import ContentNotFound, StoreUnavailable

T = TypeVar("T")

PIECE = 1024 * 1024
"""Longest piece that `read` yields, in bytes (the port's limit)."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put there must not wait for its writer
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Signature:
    """What changes whenever a file's content does; ctime is there because mtime can be set back."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        """Return the signature of a stat result."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


@dataclass(frozen=True, slots=True)
class FileContent:
    """The Content port over an open descriptor, which whoever made this closes."""

    fd: int
    size: int

    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        end = start + length
        while start < end:
            try:
                piece = await asyncio.to_thread(os.pread, self.fd, min(PIECE, end - start), start)
            except OSError as error:
                raise StoreUnavailable(f"reading content failed: {error.strerror}") from error
            if not piece:
                raise StoreUnavailable(
                    f"content of {self.size} bytes ended at byte {start}, not {end}"
                )
            yield piece
            start += len(piece)


async def opened(make: Callable[[], T], close: Callable[[T], None]) -> T:
    """Return what `make` opens, in a thread; what nobody waits for any more is closed."""
    opening = asyncio.ensure_future(asyncio.to_thread(make))

    def close_unused(unused: asyncio.Future[T]) -> None:
        if not unused.cancelled() and unused.exception() is None:
            close(unused.result())

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(close_unused)
        raise


def open_below(root: Path, *parts: str) -> int:
    """Return a descriptor of the regular file `root`/`parts`, following no symbolic link below `root`.

    Raises ContentNotFound where there is no such regular file, StoreUnavailable where `root` is not there or
    reading is refused. `parts` are single names, never paths.
    """
    name = "/".join(parts)
    try:
        folder = open_folder(root, *parts[:-1])
        try:
            fd = os.open(parts[-1], _FILE, dir_fd=folder)
        finally:
            os.close(folder)
    except PermissionError as error:
        raise StoreUnavailable(f"{root}/{name} cannot be read: {error.strerror}") from error
    except OSError as error:  # not there, a symbolic link, a folder, a socket
        if not root.is_dir():
            raise StoreUnavailable(f"the folder {root} is not there: {error.strerror}") from error
        raise ContentNotFound(f"no file {name} in {root}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ContentNotFound(f"{name} in {root} is not a regular file")
    return fd


def open_folder(root: Path, *parts: str) -> int:
    """Return a descriptor of the folder `root`/`parts`, reached as in `open_below`; raises OSError."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            inner = os.open(part, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder
