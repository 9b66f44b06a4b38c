"""Pipes in which the kernel moves bytes between sockets; empty pipes are kept for later use."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIPE_SIZE = 1024 * 1024
"""Bytes that a pipe should hold: one pair of system calls moves as many.

The kernel may grant less. It does so to users other than root once they have 64 MB of pipes
(pipe-user-pages-soft); that costs CPU, and nothing else.
"""

MAX_IDLE_PIPES = 16
"""Empty pipes kept: making one costs 20 µs, and more transfers than this rarely end at once."""


class Pipe:
    """A pipe and the number of bytes in it; the thread that moves bytes keeps `held` true."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        with suppress(OSError):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def __repr__(self) -> str:
        return f"<Pipe {self.reader}, {self.writer} held={self.held}>"

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Gives out pipes; `close` closes the idle ones."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []

    def __repr__(self) -> str:
        return f"<PipePool idle={len(self._idle)}>"

    @contextmanager
    def borrow(self) -> Iterator[Pipe | None]:
        """Give an empty pipe for the block; None where no descriptor is left.

        A pipe that comes back with bytes in it is closed, for the bytes are nobody's.
        """
        pipe = self._take()
        try:
            yield pipe
        finally:
            if pipe is None:
                pass
            elif pipe.held or len(self._idle) >= MAX_IDLE_PIPES:
                pipe.close()
            else:
                self._idle.append(pipe)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Pipe | None:
        if self._idle:
            return self._idle.pop()
        try:
            return Pipe()
        except OSError:
            return None
