"""A file's bytes, sent by the kernel from the page cache to the socket."""

from __future__ import annotations

import errno
import os

from spegel_py.errors import StoreUnavailable
from spegel_py.transfer.base import ClientGone, SocketLease
from spegel_py.transfer.moves import Move, Side

PIECE = 1024 * 1024
"""Bytes of one system call: about as many as a socket takes at once, and 2 ms of a hard disk."""

_GONE = (
    errno.EPIPE,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNABORTED,
    errno.EHOSTUNREACH,
)
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class CannotSendfile(Exception):
    """The kernel cannot send this file to a socket."""


class Sendfile(Move):
    """Bytes of a regular file, from the byte `start` on.

    Raises StoreUnavailable, and CannotSendfile before the first byte.
    """

    def __init__(self, *, fd: int, start: int, lease: SocketLease, length: int) -> None:
        super().__init__(source=None, lease=lease, length=length)
        self._fd = fd
        self._at = start

    def step(self, *, may_block: bool = False) -> Side | None:
        most = min(PIECE, self.left)
        if not may_block and not _is_cached(self._fd, self._at, most):
            return Side.DISK
        try:
            count = os.sendfile(self.lease.fd, self._fd, self._at, most)
        except BlockingIOError:
            return Side.CLIENT
        except OSError as error:
            if error.errno in _UNABLE:
                raise CannotSendfile from error
            if error.errno in _GONE:
                raise ClientGone("the client left") from error
            raise StoreUnavailable(f"reading content failed: {error.strerror}") from error
        if not count:
            raise StoreUnavailable(f"content ended at byte {self._at}")
        self._at += count
        self._moved(count)
        return None


def _is_cached(fd: int, start: int, length: int) -> bool:
    """Return True if the page cache has the first and the last of these bytes; False if unknown."""
    byte = bytearray(1)
    try:
        for at in (start, start + length - 1):
            # of a shorter file this reads nothing, and sendfile will report it
            os.preadv(fd, [byte], at, os.RWF_NOWAIT)
    except OSError:
        return False
    return True
