"""One blob on its way into a layout folder: a part file that can be resumed and is verified before
its rename.

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from spegel_py.errors import DigestMismatch, StoreFull, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.tools.files import sync_folder

PARTIAL = ".partial"
"""Folder under `blobs` for incomplete blobs.

Readers pass it by, since it is not an algorithm's name.
"""

TOTAL = ".total"
"""Ending of the file beside a part that tells readers the part's final length in bytes."""

BACKGROUND = "background-"
"""Beginning of the names of parts that are written in the background."""

_CHUNK = 1024 * 1024


class BlobWriter:
    """One blob being written. Its part stays for the next attempt unless the content proves wrong.

    If another process is writing the same blob, this process writes a private copy from byte 0. The
    copy cannot be resumed. The last commit wins, with the same bytes.

    `total` is the final length in bytes, for readers of the growing part. A part that is written in
    the background has another name, so that no reader finds it.
    """

    def __init__(
        self,
        *,
        folder: Path,
        digest: Digest,
        is_durable: bool,
        total: int | None = None,
        is_background: bool = False,
    ) -> None:
        self._folder = folder
        self._digest = digest
        self._is_durable = is_durable
        self._hasher = digest.hasher()
        self._is_committed = False
        self.offset = 0
        """Bytes that are there already: the position of the next `write`."""
        parts = folder / PARTIAL
        with disk_errors(folder):
            parts.mkdir(parents=True, exist_ok=True)
            name = f"{BACKGROUND if is_background else ''}{part_name(digest)}"
            self._path, self._fd, self._is_shared = _begin(parts / name)
            try:
                if total is not None and self._is_shared:
                    _total_of(self._path).write_text(str(total))
                self._hash_existing()
            except OSError:
                os.close(self._fd)
                raise

    def __repr__(self) -> str:
        return f"<BlobWriter {self._digest} offset={self.offset}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. Raises StoreUnavailable, with a line for a full disk; the part is kept."""
        view = memoryview(data).cast("B")
        with disk_errors(self._folder):
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self._hasher.update(view[:written])
                self.offset += written
                view = view[written:]

    def restart(self) -> None:
        """Discard all bytes and begin at byte 0."""
        with disk_errors(self._folder):
            os.ftruncate(self._fd, 0)
        self._hasher, self.offset = self._digest.hasher(), 0

    def put(self, data: bytes) -> None:
        """Write and commit a whole blob from memory. Raises the errors of `write` and `commit`."""
        if self.offset:
            self.restart()
        self.write(data)
        self.commit()

    def commit(self) -> None:
        """Verify the whole blob and move it to its name.

        Raises DigestMismatch for wrong content, and discards the part, which can never become
        right.
        """
        if self._hasher.hexdigest() != self._digest.hex:
            length = self.offset
            self.restart()
            raise DigestMismatch(f"{length} bytes are not the content of {self._digest}")
        target = self._folder / self._digest.algorithm / self._digest.hex
        with disk_errors(self._folder):
            os.fchmod(self._fd, 0o644)
            if self._is_durable:
                os.fsync(self._fd)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._path.rename(target)
            if self._is_durable:
                sync_folder(target.parent)
        self._is_committed = True  # renamed: no part is left to clean up

    def close(self) -> None:
        """Close the part. A second call does nothing."""
        if self._fd < 0:
            return
        with suppress(OSError):  # the disk may accept no changes any more
            # without a writer the part does not grow, so readers need no length
            _total_of(self._path).unlink(missing_ok=True)
        if not self._is_committed and not (self._is_shared and self.offset):
            self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _hash_existing(self) -> None:
        while piece := os.pread(self._fd, _CHUNK, self.offset):
            self._hasher.update(piece)
            self.offset += len(piece)


def part_name(digest: Digest) -> str:
    """Return the name of a blob's part file."""
    return f"{digest.algorithm}-{digest.hex}"


def _total_of(part: Path) -> Path:
    return part.with_name(part.name + TOTAL)


def _begin(path: Path) -> tuple[Path, int, bool]:
    """Open and lock the part at `path`, or a private part if another process holds the lock.

    Return its path, its descriptor, and whether it is the shared part.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        fd = os.open(path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return path, fd, True
        except BlockingIOError:
            os.close(fd)
            private = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            return private, os.open(private, flags | os.O_EXCL, 0o600), False
        except FileNotFoundError:  # the other process committed between the open and the lock
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn an error of the disk into StoreUnavailable with a line for the operator."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"the disk under {where} is full; make room and run again, it goes on"
            ) from error
        raise StoreUnavailable(f"{where} cannot be written: {error.strerror}") from error
