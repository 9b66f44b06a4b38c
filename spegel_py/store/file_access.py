"""Regular files below a folder: opened without links, and without a thread if possible.

A file can be opened in two ways. The blocking way may wait for a disk, so it runs in a thread. The
cached way asks the kernel to fail where it would have to wait. Content that was just written is in
the kernel's memory, and a thread costs more than such an open.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from aiofiles.base import wrap

from spegel_py.errors import ContentNotFound, StoreError, StoreUnavailable

T = TypeVar("T")

PIECE = 1024 * 1024
"""Bytes of the longest piece that `read` yields, as the Content port says."""

SHORT = 4096
"""Bytes of a small file that are read; containerd's own small files have 100 at most."""

FRESH = 30.0
"""Seconds after a change of a folder in which its names are certainly in memory.

The kernel cannot be asked whether they are.
"""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put there must not wait for its writer
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


pread = wrap(os.pread)
"""os.pread in a thread. Readers of several ranges share a descriptor, so each gives a position."""


class NotCached(Exception):
    """The kernel would have to ask the disk, or cannot tell whether it would."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The fields of a file's status that change with its content.

    The change time is among them because the modification time can be set back.
    """

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
    """The Content port over an open descriptor. Its creator closes the descriptor."""

    fd: int
    size: int

    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        end = start + length
        while start < end:
            try:
                piece = await pread(self.fd, min(PIECE, end - start), start)
            except OSError as error:
                raise StoreUnavailable(f"reading content failed: {error.strerror}") from error
            if not piece:
                raise StoreUnavailable(
                    f"content of {self.size} bytes ended at byte {start}, not {end}"
                )
            yield piece
            start += len(piece)


@dataclass(frozen=True, slots=True)
class FileAccess:
    """One way to reach files below a root: `BLOCKING` or `CACHED_ONLY`.

    `open` opens a regular file as `open_below` does. `read` returns a small file's text, empty for
    a file that does not exist. `names` lists a folder.
    """

    open: Callable[..., int]
    read: Callable[..., str]
    names: Callable[..., list[str]]


async def open_file(root: Path, *parts: str) -> int:
    """Open a file as `open_below` does, in a thread only if the kernel has to ask the disk."""
    return await open_cached_or_thread(lambda access: access.open(root, *parts), os.close)


async def open_cached_or_thread(
    make: Callable[[FileAccess], T], close: Callable[[T], None] = lambda _: None
) -> T:
    """Return the result of `make`, called at once or else in a thread.

    If the caller is cancelled, `close` is called with the thread's result.
    """
    try:
        return make(CACHED_ONLY)
    except NotCached:
        return await open_in_thread(partial(make, BLOCKING), close)


async def open_in_thread(make: Callable[[], T], close: Callable[[T], None]) -> T:
    """Return the result of `make`, called in a thread.

    If the caller is cancelled, `close` is called with the thread's result.
    """
    opening = asyncio.ensure_future(asyncio.to_thread(make))

    def close_unused(unused: asyncio.Future[T]) -> None:
        if not unused.cancelled() and unused.exception() is None:
            close(unused.result())

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(close_unused)
        raise


# The blocking way


def open_below(root: Path, *parts: str) -> int:
    """Return a descriptor of the regular file `root`/`parts`, without following links below.

    Args:
        root: A folder.
        parts: Single names, never paths.

    Raises:
        ContentNotFound: There is no such regular file.
        StoreUnavailable: `root` does not exist, or reading is refused.
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
    """Return a descriptor of the folder `root`/`parts`, as in `open_below`. Raises OSError."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            inner = os.open(part, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _read(root: Path, *parts: str) -> str:
    try:
        fd = open_below(root, *parts)
    except StoreError:
        return ""
    try:
        return _text(os.read(fd, SHORT))
    finally:
        os.close(fd)


def _names(root: Path, *parts: str) -> list[str]:
    try:
        return os.listdir(root.joinpath(*parts))  # noqa: PTH208 - names are needed, not paths
    except OSError:
        return []


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()


# The cached way: openat2(2) with RESOLVE_CACHED of Linux 5.12, which Python does not have

_NO_SYMLINKS, _BENEATH, _CACHED = 0x04, 0x08, 0x20
_WORKING_FOLDER = -100
_OPENAT2 = 437  # the number of the call, on every architecture
_HOW = struct.Struct("QQQ")

# PyDLL keeps the interpreter's lock: the call never waits, and taking the lock may take 5 ms
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_syscall.restype = ctypes.c_long


def openat2(
    path: str | os.PathLike[str], flags: int, resolve: int, *, folder: int = _WORKING_FOLDER
) -> int:
    """Return a descriptor of `path` below the open `folder`.

    Raises OSError: BlockingIOError for a path that is not in memory, another OSError for a
    kernel without the call.
    """
    how = _HOW.pack(flags | os.O_CLOEXEC, 0, resolve)
    fd = int(_syscall(_OPENAT2, folder, os.fsencode(path), how, len(how)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))
    return fd


def _open_cached(root: Path, *parts: str, flags: int = os.O_RDONLY | os.O_NONBLOCK) -> int:
    name = "/".join(parts)
    try:
        folder = openat2(root, os.O_PATH | os.O_DIRECTORY, _CACHED)
    except OSError as error:
        raise NotCached from error
    try:
        fd = openat2(name, flags, _CACHED | _BENEATH | _NO_SYMLINKS, folder=folder)
    except FileNotFoundError as error:  # the kernel remembers names it looked for or removed
        raise ContentNotFound(f"no file {name} in {root}") from error
    except OSError as error:
        raise NotCached from error
    finally:
        os.close(folder)
    is_right = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    if not is_right(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotCached
    return fd


def _read_cached(root: Path, *parts: str) -> str:
    try:
        fd, buffer = _open_cached(root, *parts), bytearray(SHORT)
    except ContentNotFound:
        return ""
    try:
        return _text(bytes(buffer[: os.preadv(fd, [buffer], 0, os.RWF_NOWAIT)]))
    except OSError as error:
        raise NotCached from error
    finally:
        os.close(fd)


def _names_cached(root: Path, *parts: str) -> list[str]:
    try:
        fd = _open_cached(root, *parts, flags=os.O_RDONLY | os.O_DIRECTORY)
    except ContentNotFound:
        return []
    try:
        if not 0 <= time.time() - os.fstat(fd).st_mtime < FRESH:
            raise NotCached
        return os.listdir(fd)  # noqa: PTH208 - a descriptor
    finally:
        os.close(fd)


BLOCKING = FileAccess(open_below, _read, _names)
"""May wait for a disk, so it belongs in a thread."""

CACHED_ONLY = FileAccess(_open_cached, _read_cached, _names_cached)
"""Raises NotCached instead of waiting."""
