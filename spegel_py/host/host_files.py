"""Reading of files and folders, and a lock against other processes of this program.

Everything here blocks. An error of the operating system becomes a HostError with action, path and
advice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spegel_py.errors import HostError
from spegel_py.host.file_tree import (
    MAX_HELD,
    MAX_HELD_TOGETHER,
    Entry,
    File,
    Folder,
    LargeFile,
    Link,
    Meta,
)

LOCK_DEADLINE = 10.0
"""Seconds to wait for another process's change, which takes milliseconds."""

MAX_TEXT = 1024 * 1024
"""Bytes up to which a configuration file is read as text."""

_CANNOT_LOCK = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error numbers of file systems without folder locks, such as NFS: no lock is used there."""

_ADVICE = {
    errno.EROFS: "it is mounted read-only: mount it writable",
    errno.EACCES: "run this as root, or as the owner of that folder",
    errno.EPERM: "run this as root, or as the owner of that folder",
    errno.ENOSPC: "the disk is full: free some space and run this again, nothing is lost",
    errno.EDQUOT: "the quota is used up: free some space and run this again, nothing is lost",
}


def read(path: Path) -> Entry | None:
    """Return the entry at a path, links not followed; None if there is none.

    A file above MAX_HELD bytes is a LargeFile, and so is every file after MAX_HELD_TOGETHER bytes.
    """
    return _Reader().read(path)


class _Reader:
    """Reads one tree into memory, within these limits."""

    def __init__(self) -> None:
        self._room = MAX_HELD_TOGETHER

    def read(self, path: Path) -> Entry | None:
        with reported("read", path):
            try:
                found = path.lstat()
                meta = Meta(
                    mode=stat.S_IMODE(found.st_mode),
                    owner=(found.st_uid, found.st_gid),
                    mtime_ns=found.st_mtime_ns,
                )
                if stat.S_ISLNK(found.st_mode):
                    return Link(
                        str(path.readlink()), Meta(owner=meta.owner, mtime_ns=meta.mtime_ns)
                    )
                if stat.S_ISREG(found.st_mode):
                    return self._file(path, found.st_size, meta)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not stat.S_ISDIR(found.st_mode):
            raise HostError(
                f"{path} is neither a file nor a folder nor a link: move it away and run this again"
            )
        return Folder(
            {name: entry for name in names(path) if (entry := self.read(path / name)) is not None},
            meta,
        )

    def _file(self, path: Path, size: int, meta: Meta) -> Entry:
        if size > min(MAX_HELD, self._room):
            return LargeFile(path, size, meta)
        with path.open("rb") as file:
            data = file.read(size)  # a growing file is cut at its first size
        self._room -= len(data)
        return File(data, meta)


def read_text(path: Path) -> str:
    """Return a text file's content. Raises OSError, or ValueError if it is no text or too large."""
    with path.open("rb") as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT} bytes")
    return data.decode()


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    with reported("read", folder):
        return sorted(path.name for path in folder.iterdir())


@contextmanager
def locked(folder: Path, *, deadline: float | None = None) -> Iterator[None]:
    """Lock a folder against other processes of this program.

    Raises HostError after `deadline` seconds, by default LOCK_DEADLINE.
    """
    end = time.monotonic() + (LOCK_DEADLINE if deadline is None else deadline)
    with reported("lock", folder):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not _locks(fd):
            if time.monotonic() > end:
                raise HostError(
                    f"{folder} is being changed by another spegel-py, or kept clean while a "
                    "release is uninstalled: "
                    "run this again when that has ended"
                )
            time.sleep(0.05)
        with reported("lock", folder):
            if os.fstat(fd).st_ino != folder.stat().st_ino:  # a clean-up removed it meanwhile
                raise HostError(f"{folder} was replaced by another process: run this again")
        yield
    finally:
        os.close(fd)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
    return True


@contextmanager
def reported(what: str, path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a HostError."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "look at that file system and run this again")
        raise HostError(f"cannot {what} {path}: {error.strerror or error}; {advice}") from error
