"""Bytes moved by the kernel, as a thread does it: for a slice of time, then the event loop decides what is next.

A thread never waits for long: what is not ready within PATIENCE is waited for on the event loop, where a stalled
peer or a slow client costs no thread, and a cancellation is seen at once.
"""

from __future__ import annotations

import errno
import os
import select
import time
from abc import ABC, abstractmethod
from enum import Enum, auto
from functools import cache
from socket import socketpair

from spegel_py.errors import PeerUnreachable, StoreUnavailable
from spegel_py.transfer.base import ClientGone, Loan
from spegel_py.transfer.pipes import SIZE, Pipe

SLICE = 0.05
"""Seconds for which one transfer keeps a thread: a hop costs 0.1 ms, and others wait for no longer than this."""

PATIENCE = 0.005
"""Seconds that a thread waits for a side: longer than the gaps of a busy connection, and short enough that a client
which leaves meanwhile is noticed in less than 10 ms."""

PIECE = 1024 * 1024
"""Bytes given to one call of sendfile: between two calls a thread looks whether it is to stop."""

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED, errno.EHOSTUNREACH)
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class Side(Enum):
    """Who must be waited for."""

    SOURCE = auto()
    CLIENT = auto()


class Unable(Exception):
    """The kernel cannot send this file to a socket."""


class Move(ABC):
    """`left` bytes on their way to a client, at most `most` of them in one slice. One thread at a time may run it.

    `received` bytes came in the last slice, which waited `waited` seconds for their source.
    """

    def __init__(self, *, loan: Loan, length: int, most: int | None = None) -> None:
        self.loan = loan
        self.left = length
        self.received = 0
        self.waited = 0.0
        self._most = length if most is None else most
        self._is_stopped = False

    def stop(self) -> None:
        """Have the thread end within PATIENCE, or as soon as its disk answers."""
        self._is_stopped = True

    def run(self) -> Side | None:
        """Move bytes until all are moved, the slice is over, or a side is not ready; return that side.

        Raises ClientGone, and what the source raises; whatever came from it has been passed on then.
        """
        self.received, self.waited = 0, 0.0
        until, enough = time.monotonic() + SLICE, max(0, self.left - self._most)
        while self.left > enough and not self._is_stopped and time.monotonic() < until:
            side = self._step(self.left - enough)
            if side is not None and not self._is_ready(side):
                return side
        return None

    @property
    @abstractmethod
    def source(self) -> int:
        """The descriptor that may be waited for."""

    @abstractmethod
    def _step(self, most: int) -> Side | None:
        """Move some bytes; return the side that was not ready."""

    def _is_ready(self, side: Side) -> bool:
        waiting, began = select.poll(), time.monotonic()
        if side is Side.CLIENT:
            waiting.register(self.loan.fd, select.POLLOUT)
            return bool(waiting.poll(PATIENCE * 1000))
        waiting.register(self.source, select.POLLIN)
        is_ready = bool(waiting.poll(PATIENCE * 1000))
        self.waited += time.monotonic() - began
        return is_ready

    def _moved(self, count: int) -> None:
        self.left -= count
        self.loan.moved += count


class Sendfile(Move):
    """Bytes of a regular file from `start` on. Raises StoreUnavailable, and Unable before the first byte."""

    def __init__(self, *, fd: int, start: int, loan: Loan, length: int, most: int | None = None) -> None:
        super().__init__(loan=loan, length=length, most=most)
        self._fd = fd
        self._at = start

    @property
    def source(self) -> int:
        return self._fd

    def _step(self, most: int) -> Side | None:
        try:
            count = os.sendfile(self.loan.fd, self._fd, self._at, min(PIECE, most))
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


class Splice(Move):
    """Bytes of a peer's socket, through a pipe that is emptied before more is taken. Raises PeerUnreachable."""

    def __init__(self, *, peer: int, pipe: Pipe, loan: Loan, length: int) -> None:
        super().__init__(loan=loan, length=length)
        self._peer = peer
        self._pipe = pipe

    @property
    def source(self) -> int:
        return self._peer

    def _step(self, most: int) -> Side | None:
        if not self._pipe.held and not self._fill(most):
            return Side.SOURCE
        try:
            count = os.splice(self._pipe.reader, self.loan.fd, self._pipe.held, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return Side.CLIENT
        except OSError as error:
            raise ClientGone("the client left") from error
        self._pipe.held -= count
        self._moved(count)
        return None

    def _fill(self, most: int) -> bool:
        try:
            count = os.splice(self._peer, self._pipe.writer, min(SIZE, most), flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerUnreachable(f"the peer broke off: {error.strerror}") from error
        if not count:
            raise PeerUnreachable("the peer broke off in the middle of the body")
        self._pipe.held = count
        self.received += count
        return True


@cache
def can_splice() -> bool:
    """Say whether this kernel moves bytes from a socket to a socket: sandboxes and seccomp filters may not."""
    (source, sender), (receiver, sink), pipe = socketpair(), socketpair(), Pipe()
    try:
        sender.send(b"x")
        os.splice(source.fileno(), pipe.writer, 1, flags=os.SPLICE_F_NONBLOCK)
        os.splice(pipe.reader, sink.fileno(), 1, flags=os.SPLICE_F_NONBLOCK)
        return receiver.recv(1) == b"x"
    except OSError:
        return False
    finally:
        pipe.close()
        for each in (source, sender, receiver, sink):
            each.close()
