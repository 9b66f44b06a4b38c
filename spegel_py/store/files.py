"""Content that is a regular file on this machine: opened safely, read by position."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from spegel_py.errors import ContentNotFound, StoreUnavailable

PIECE = 1024 * 1024
"""Longest piece that `read` yields, in bytes (the port's limit)."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put there must not wait for its writer
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


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
                raise StoreUnavailable(f"content of {self.size} bytes ended at byte {start}, not {end}")
            yield piece
            start += len(piece)


def open_below(root: Path, *parts: str) -> int:
    """Return a descriptor of the regular file `root`/`parts`, following no symbolic link below `root`.

    Raises ContentNotFound where there is no such regular file, StoreUnavailable where `root` is not there or
    reading is refused. `parts` are single names, never paths.
    """
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnavailable(f"the folder {root} cannot be read: {error.strerror}") from error
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return _regular(os.open(parts[-1], _FILE, dir_fd=folder), "/".join(parts))
    except PermissionError as error:
        raise StoreUnavailable(f"{root}/{'/'.join(parts)} cannot be read: {error.strerror}") from error
    except OSError as error:  # not there, a symbolic link, a folder, a socket
        raise ContentNotFound(f"no regular file {'/'.join(parts)} in {root}") from error
    finally:
        os.close(folder)


def _regular(fd: int, name: str) -> int:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise ContentNotFound(f"{name} is not a regular file")
