"""A file's bytes, encrypted in a mover's thread on their way from the page cache to the socket."""

from __future__ import annotations

import os

from spegel_py.errors import StoreUnavailable
from spegel_py.transfer.base import ClientGone, SocketLease
from spegel_py.transfer.moves import Move, Side

PIECE = 128 * 1024
"""Bytes of one step: they are encrypted in 60 µs, and a slow client makes the transfer keep them
twice."""


class SealedFile(Move):
    """Bytes of a regular file, from the byte `start` on, for a lease with TLS.

    Raises StoreUnavailable.
    """

    def __init__(self, *, fd: int, start: int, lease: SocketLease, length: int) -> None:
        super().__init__(source=None, lease=lease, length=length)
        self._fd = fd
        self._at = start
        self._buffer = memoryview(bytearray(min(PIECE, length)))
        self._held = self._buffer[:0]

    def step(self, *, may_block: bool = False) -> Side | None:
        if not self._held and not self._fill(may_block=may_block):
            return Side.DISK
        try:
            count = self.lease.write(self._held)
        except BlockingIOError:
            return Side.CLIENT
        except OSError as error:
            raise ClientGone("the client left") from error
        self._held = self._held[count:]
        self._moved(count)
        return None

    def _fill(self, *, may_block: bool) -> bool:
        """Read the next bytes; return False if that would wait for a disk."""
        buffer = self._buffer[: self.left]
        try:
            count = os.preadv(self._fd, [buffer], self._at, 0 if may_block else os.RWF_NOWAIT)
        except OSError as error:
            if not may_block:  # not cached, or a file system that cannot tell
                return False
            raise StoreUnavailable(f"reading content failed: {error.strerror}") from error
        if not count:
            raise StoreUnavailable(f"content ended at byte {self._at}")
        self._at += count
        self._held = buffer[:count]
        return True
