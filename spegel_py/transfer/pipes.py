"""Pipes through which the kernel moves bytes from one socket to another; kept for the next transfer while empty."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SIZE = 1024 * 1024
"""Bytes a pipe is to hold: what is moved by one pair of system calls. The kernel may give less, and does so to users
other than root once they have 64 MB of pipes (pipe-user-pages-soft); that costs CPU, and nothing else."""

KEPT = 16
"""Empty pipes kept: making one costs 20 µs, and more transfers than this rarely end at once."""


class Pipe:
    """A pipe and how many bytes are in it; whoever moves them keeps `held` true."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        with suppress(OSError):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, SIZE)

    def __repr__(self) -> str:
        return f"<Pipe {self.reader}, {self.writer} held={self.held}>"

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """Lends pipes; `close` ends those that are kept."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []

    def __repr__(self) -> str:
        return f"<Pipes idle={len(self._idle)}>"

    @contextmanager
    def borrow(self) -> Iterator[Pipe | None]:
        """Lend an empty pipe; None where no descriptor is left. One that comes back with bytes in it is closed, for
        they are nobody's."""
        pipe = self._take()
        try:
            yield pipe
        finally:
            if pipe is None:
                pass
            elif pipe.held or len(self._idle) >= KEPT:
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
