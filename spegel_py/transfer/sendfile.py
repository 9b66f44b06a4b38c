"""A file's bytes sent by the kernel, from the page cache to the socket."""

from __future__ import annotations

import errno
import os

from spegel_py.errors import StoreUnavailable
from spegel_py.transfer.base import ClientGone, Loan
from spegel_py.transfer.moves import Move, Side

PIECE = 1024 * 1024
"""Bytes given to one call: between two calls a thread looks whether it is to stop."""

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED, errno.EHOSTUNREACH)
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class Unable(Exception):
    """The kernel cannot send this file to a socket."""


class Sendfile(Move):
    """Bytes of a regular file from `start` on. Raises StoreUnavailable, and Unable before the first byte."""

    def __init__(self, *, fd: int, start: int, loan: Loan, length: int, most: int | None = None) -> None:
        super().__init__(source=fd, loan=loan, length=length, most=most)
        self._at = start

    def _step(self, most: int) -> Side | None:
        try:
            count = os.sendfile(self.loan.fd, self._source, self._at, min(PIECE, most))
        except BlockingIOError:
            return Side.CLIENT
        except OSError as error:
            if error.errno in _UNABLE:
                raise Unable from error
            if error.errno in _GONE:
                raise ClientGone("the client left") from error
            raise StoreUnavailable(f"reading content failed: {error.strerror}") from error
        if not count:
            raise StoreUnavailable(f"content ended at byte {self._at}")
        self._at += count
        self._moved(count)
        return None
