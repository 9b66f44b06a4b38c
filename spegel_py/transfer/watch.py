"""Watching one body come in from a peer: no wait for it lasts too long, and no trickle passes for a body."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from spegel_py.errors import PeerStalled
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.moves import Move, Side
from spegel_py.transfer.pace import Floor, Pace

LOOK = 1.0
"""Seconds between two looks at how a body is doing that a thread moves."""


class Watch:
    """Waits for the peer within the `stall` deadline, and holds what came against the minimum rates.

    `left` bytes of the body are still to come.
    """

    def __init__(self, *, deadlines: Deadlines, left: int = 0) -> None:
        self.left = left
        self._stall = deadlines.stall
        self._pace = Pace(min_rate=deadlines.min_rate, window=deadlines.rate_window)
        self._floor = Floor(floors=deadlines.floors)
        self._waited = 0.0
        self._noted = 0.0
        self._move: Move | None = None
        self._seen = (0, 0.0)  # what was noted of the move that is followed

    def __repr__(self) -> str:
        return f"<Watch {self._pace!r}>"

    @property
    def total(self) -> float:
        """Seconds for which the peer was waited for, in all."""
        waited = (
            0.0
            if self._move is None
            else self._move.waits.source_at(time.monotonic()) - self._seen[1]
        )
        return self._noted + max(0.0, waited)

    # Where the event loop receives

    async def wait(self, peer: socket.socket) -> None:
        """Return once the peer has sent something. Raises PeerStalled."""
        began = time.monotonic()
        try:
            await _readable(peer.fileno(), self._stall)
        except TimeoutError as error:
            raise PeerStalled("nothing came within the deadline") from error
        self._waited += time.monotonic() - began

    def note(self, count: int) -> None:
        """Note what came after the last wait. Raises PeerStalled for a trickle."""
        waited, self._waited = self._waited, 0.0
        self._note(count, waited)

    # Where a thread moves

    @contextmanager
    def following(self, move: Move) -> Iterator[None]:
        """Watch a move while the block lasts."""
        self._move, self._seen = move, (0, 0.0)
        try:
            yield
        finally:
            self._noted, self._move = self.total, None

    def look(self, now: float) -> float:
        """Judge the move; return after how many seconds to look again. Raises PeerStalled."""
        assert self._move is not None  # noqa: S101 - it is followed
        waits, received = self._move.waits, self._move.received
        waited = waits.source_at(now)
        if waits.side is Side.SOURCE and now - waits.since >= self._stall:
            raise PeerStalled("nothing came within the deadline")
        before, self._seen = self._seen, (received, waited)
        self._note(received - before[0], waited - before[1])
        return min(
            LOOK, self._stall - (now - waits.since) if waits.side is Side.SOURCE else self._stall
        )

    def _note(self, count: int, waited: float) -> None:
        self._noted += waited
        self.left -= count
        is_below_floor = self._floor.is_too_slow(count, waited, self.left)
        if self._pace.is_too_slow(count, waited) or is_below_floor:
            raise PeerStalled("the peer sends below the minimum rate")


async def _readable(fd: int, timeout: float) -> None:
    """Return once there is something to read, or an end to see. Raises TimeoutError after that many seconds."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(timeout):
            await ready.wait()
    finally:
        loop.remove_reader(fd)
