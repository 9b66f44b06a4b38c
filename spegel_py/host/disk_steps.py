"""Changes of files in steps: each step is atomic, and on the disk before the next one begins.

Everything here blocks. An error of the operating system becomes a HostError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from spegel_py.host.file_tree import Entry, File, Folder, LargeFile, Link, Meta
from spegel_py.host.host_files import names, reported

OnStep = Callable[[str, Path], None]
"""Called before each step, with its name and path.

Tests end the process here, to see that any step may be the last one.
"""

MTIME = "user.spegel-py.mtime"
"""Extended attribute that keeps a folder's own mtime while its content changes.

There is no other place for it: a file in the folder would change the mtime when it is removed.
"""

COPY_SIZE = 1024 * 1024
"""Bytes of a large file in memory while it is copied."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP)


class Disk:
    """The steps, each of which may be repeated after a crash at any point.

    A step needs only the folder that holds its path. With `is_durable` each step is on the disk
    before the next one; tests switch that off for speed.
    """

    def __init__(self, *, on_step: OnStep = lambda *_: None, is_durable: bool = True) -> None:
        self._on_step = on_step
        self._is_durable = is_durable

    def put(self, path: Path, entry: Entry) -> None:
        """Write an entry, and everything below it, to a path that is free."""
        match entry:
            case File():
                self._write(path, entry.meta, lambda file: file.write(entry.data))
            case LargeFile():
                with self._step("copy", path):
                    _check_room(entry, path.parent)
                self._write(path, entry.meta, lambda file: _copy(entry, file))
            case Link():
                with self._step("link", path):
                    path.symlink_to(entry.target)
                self._stamp(path, entry.meta)
            case Folder():
                with self._step("create", path):
                    path.mkdir(mode=0o700)
                for name, child in entry.entries.items():
                    self.put(path / name, child)
                self._stamp(path, entry.meta)
                self.sync(path)

    def swap(self, staged: Path, path: Path, *, trash: Path) -> None:
        """Replace the entry at a path by a staged one; the old entry ends as trash.

        Both change in one step if the file system can exchange them.
        """
        if not os.path.lexists(path) or not self._exchange(staged, path):
            self.discard(path, trash=trash)
            self.move(staged, path)
        self.sync(path.parent)
        self.remove(staged)

    def discard(self, path: Path, *, trash: Path) -> None:
        """Remove the entry at a path, in one step if the file system allows it."""
        self.remove(trash)
        # overlayfs cannot rename a folder of a lower layer (EXDEV); it is emptied in place.
        with self._step("discard", path, passing=(errno.ENOENT, errno.EXDEV)):
            path.rename(trash)
        self.remove(path)
        self.remove(trash)

    def move(self, source: Path, target: Path) -> None:
        """Rename; the change of both folders is on the disk afterwards."""
        with self._step("rename", target):
            source.rename(target)
        self.sync(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a folder with everything below it, if it exists."""
        with reported("read", path):
            if not os.path.lexists(path):
                return
            is_folder = path.is_dir() and not path.is_symlink()
        for name in names(path) if is_folder else ():
            self.remove(path / name)
        with self._step("remove", path, passing=(errno.ENOENT,)):
            path.rmdir() if is_folder else path.unlink()

    def sync(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        with self._step("sync", folder):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._settle(fd)
            finally:
                os.close(fd)

    def keep_mtime(self, folder: Path) -> None:
        """Remember a folder's mtime until `reset_mtime`, unless it is remembered already."""
        with self._step("mark", folder, passing=(errno.EOPNOTSUPP, errno.EPERM, errno.EEXIST)):
            mtime = str(folder.stat().st_mtime_ns).encode()
            os.setxattr(folder, MTIME, mtime, os.XATTR_CREATE)

    def reset_mtime(self, folder: Path) -> None:
        """Restore a folder's mtime, if it was remembered."""
        with reported("read", folder):
            if MTIME not in os.listxattr(folder):
                return
            mtime = int(os.getxattr(folder, MTIME))
        with self._step("reset", folder):
            os.utime(folder, ns=(folder.stat().st_atime_ns, mtime))
        with self._step("unmark", folder):
            os.removexattr(folder, MTIME)

    def _write(self, path: Path, meta: Meta, fill: Callable[[BinaryIO], object]) -> None:
        with self._step("create", path):
            fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        with self._step("write", path), os.fdopen(fd, "wb") as opened:
            fill(opened)
            opened.flush()
            self._stamp(path, meta)
            self._settle(fd)

    def _settle(self, fd: int) -> None:
        if self._is_durable:
            os.fsync(fd)

    def _stamp(self, path: Path, meta: Meta) -> None:
        with self._step("stamp", path):
            if meta.owner is not None:
                os.chown(path, *meta.owner, follow_symlinks=False)
            if meta.mode is not None:
                path.chmod(meta.mode)  # after chown, which drops mode bits
            if meta.mtime_ns is not None:
                os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns), follow_symlinks=False)

    def _exchange(self, one: Path, other: Path) -> bool:
        """Exchange two paths in one step (renameat2); return False if that is not possible."""
        with self._step("exchange", other, passing=_CANNOT_EXCHANGE):
            rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
            if rename is None:
                return False
            if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(other))
            return True
        return False

    @contextmanager
    def _step(self, what: str, path: Path, *, passing: tuple[int, ...] = ()) -> Iterator[None]:
        """Make one step; errors with a number in `passing` are ignored."""
        with reported(what, path):
            try:
                self._on_step(what, path)
                yield
            except OSError as error:
                if error.errno not in passing:
                    raise


def _check_room(file: LargeFile, folder: Path) -> None:
    """Raise OSError (ENOSPC) if the file is larger than the free space, which a copy would fill."""
    found = os.statvfs(folder)
    if file.size > found.f_bavail * found.f_frsize:
        raise OSError(
            errno.ENOSPC, f"{file.source} has {file.size} bytes: {os.strerror(errno.ENOSPC)}"
        )


def _copy(file: LargeFile, into: BinaryIO) -> None:
    with file.source.open("rb") as source:
        shutil.copyfileobj(source, into, COPY_SIZE)
