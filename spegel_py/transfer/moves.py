"""Bytes that the kernel moves into a client's socket, a piece at a time and without ever waiting.

The thread that steps a Move (the Mover's) waits for the side that was not ready, and records since
when. The event loop reads that record to tell which side keeps the other one waiting. No threads
here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto

from spegel_py.transfer.base import ClientGone, SocketLease


class Side(Enum):
    """The side that must be waited for."""

    SOURCE = auto()
    CLIENT = auto()
    DISK = auto()  # the next step would wait for a disk: it belongs in a thread that may wait


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of a move, replaced as a whole; times are monotonic seconds.

    `source` is the sum of the finished waits for the source. `side` and `since` describe the
    current wait; `side` is None without one.
    """

    source: float = 0.0
    side: Side | None = None
    since: float = 0.0

    def source_at(self, now: float) -> float:
        """Return the seconds of waiting for the source until now."""
        return self.source + (max(0.0, now - self.since) if self.side is Side.SOURCE else 0.0)

    def began(self, side: Side, now: float) -> Waits:
        """Return these waits with a wait that begins."""
        return Waits(self.source, side, now)

    def ended(self, now: float) -> Waits:
        """Return these waits with the current one finished."""
        return Waits(self.source_at(now))


class Move(ABC):
    """`left` bytes on their way to a client; `received` bytes came from their source.

    `source` is the descriptor of the source, None for a file, which cannot be waited for. One
    thread at a time steps the move. Other threads may read `received`, `waits` and the lease.
    """

    def __init__(self, *, source: int | None, lease: SocketLease, length: int) -> None:
        self.source = source
        self.lease = lease
        self.left = length
        self.received = 0
        self.waits = Waits()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.left} bytes left, {self.waits}>"

    @abstractmethod
    def step(self, *, may_block: bool = False) -> Side | None:
        """Move some bytes; return the side that was not ready, None if both were.

        This waits for nothing but a disk, and only if it `may_block`. Raises ClientGone, and the
        errors of the source. All bytes received before such an error have been passed on.
        """

    def check(self, now: float) -> float:
        """Return the seconds until the next check. Raises ClientGone after the client's timeout."""
        waits = self.waits
        if waits.side is not Side.CLIENT:
            return self.lease.timeout
        left = waits.since + self.lease.timeout - now
        if left <= 0:
            raise ClientGone("the client stopped reading")
        return left

    def wait(self, side: Side, now: float) -> None:
        """Record that a wait for this side begins."""
        self.waits = self.waits.began(side, now)
        if side is Side.CLIENT:
            self.lease.waits = self.lease.waits.began(now)

    def end_wait(self, now: float) -> None:
        """Record that the wait is over."""
        self.waits = self.waits.ended(now)
        self.lease.waits = self.lease.waits.ended(now)

    def _moved(self, count: int) -> None:
        self.left -= count
        self.lease.moved += count
