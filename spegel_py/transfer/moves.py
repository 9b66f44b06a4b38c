"""Bytes moved by the kernel into a client's socket, a piece at a time and without ever waiting; pure of threads.

Whoever steps a Move (the Mover's thread) waits for the side that was not ready, and writes down since when: the event
loop reads that to tell who keeps the other waiting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto

from spegel_py.transfer.base import ClientGone, Loan


class Side(Enum):
    """Who must be waited for."""

    SOURCE = auto()
    CLIENT = auto()
    DISK = auto()  # the next step would wait for a disk: it is to be made in a thread that may


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of a move, written as a whole: `source` seconds for its source so far, and the one going on.

    `side` is None while nothing is waited for; times are monotonic seconds.
    """

    source: float = 0.0
    side: Side | None = None
    since: float = 0.0

    def source_at(self, now: float) -> float:
        """Return the seconds for which the source was waited for until now."""
        return self.source + (max(0.0, now - self.since) if self.side is Side.SOURCE else 0.0)

    def began(self, side: Side, now: float) -> Waits:
        """Return this with a wait that begins."""
        return Waits(self.source, side, now)

    def ended(self, now: float) -> Waits:
        """Return this with its wait over."""
        return Waits(self.source_at(now))


class Move(ABC):
    """`left` bytes on their way to a client; `received` came from their source, whose descriptor is `source`: None
    where it cannot be waited for, being a file.

    One thread at a time steps it; others may read `received`, `waits` and what the loan counts.
    """

    def __init__(self, *, source: int | None, loan: Loan, length: int) -> None:
        self.source = source
        self.loan = loan
        self.left = length
        self.received = 0
        self.waits = Waits()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.left} bytes left, {self.waits}>"

    @abstractmethod
    def step(self, *, may_block: bool = False) -> Side | None:
        """Move some bytes; return the side that was not ready, None if neither was in the way.

        Waits for nothing but a disk, and only if it `may_block`. Raises ClientGone, and what the source raises;
        whatever came from it has been passed on then.
        """

    def look(self, now: float) -> float:
        """Judge the waits; return after how many seconds to look again. Raises ClientGone."""
        waits = self.waits
        if waits.side is not Side.CLIENT:
            return self.loan.patience
        left = waits.since + self.loan.patience - now
        if left <= 0:
            raise ClientGone("the client stopped reading")
        return left

    def wait(self, side: Side, now: float) -> None:
        """Note that a side is waited for from now on."""
        self.waits = self.waits.began(side, now)
        if side is Side.CLIENT:
            self.loan.waits = self.loan.waits.began(now)

    def end_wait(self, now: float) -> None:
        """Note that nothing is waited for any more."""
        self.waits = self.waits.ended(now)
        self.loan.waits = self.loan.waits.ended(now)

    def _moved(self, count: int) -> None:
        self.left -= count
        self.loan.moved += count
