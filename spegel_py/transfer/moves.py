"""Bytes moved by the kernel, as a thread does it: for a slice of time, then the event loop decides what is next.

A thread never waits for long: what is not ready within PATIENCE is waited for on the event loop, where a stalled
peer or a slow client costs no thread, and a cancellation is seen at once.
"""

from __future__ import annotations

import select
import time
from abc import ABC, abstractmethod
from enum import Enum, auto

from spegel_py.transfer.base import Loan

SLICE = 0.05
"""Seconds for which one transfer keeps a thread: a hop costs 0.1 ms, and others wait for no longer than this."""

PATIENCE = 0.005
"""Seconds that a thread waits for a side: longer than the gaps of a busy connection, and short enough that a client
which leaves meanwhile is noticed in less than 10 ms."""


class Side(Enum):
    """Who must be waited for."""

    SOURCE = auto()
    CLIENT = auto()


class Move(ABC):
    """`left` bytes on their way from a descriptor to a client, at most `most` of them in one slice. One thread at a
    time may run it.

    `received` bytes came in the last slice, which waited `waited` seconds for their source.
    """

    def __init__(self, *, source: int, loan: Loan, length: int, most: int | None = None) -> None:
        self.loan = loan
        self.left = length
        self.received = 0
        self.waited = 0.0
        self._source = source
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

    @abstractmethod
    def _step(self, most: int) -> Side | None:
        """Move some bytes; return the side that was not ready."""

    def _is_ready(self, side: Side) -> bool:
        waiting, began = select.poll(), time.monotonic()
        if side is Side.CLIENT:
            waiting.register(self.loan.fd, select.POLLOUT)
            return bool(waiting.poll(PATIENCE * 1000))
        waiting.register(self._source, select.POLLIN)
        is_ready = bool(waiting.poll(PATIENCE * 1000))
        self.waited += time.monotonic() - began
        return is_ready

    def _moved(self, count: int) -> None:
        self.left -= count
        self.loan.moved += count
