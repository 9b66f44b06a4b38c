"""Detects a peer that stalls or trickles while its body comes in."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from spegel_py.errors import PeerStalled
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.moves import Move, Side
from spegel_py.transfer.rates import RateFloor, RateWindow

CHECK_INTERVAL = 1.0
"""Seconds between two checks of a body that a thread moves."""


class StallDetector:
    """Enforces the `stall` deadline of every wait, and the minimum rates of one body.

    `left` bytes of the body are still to come.
    """

    def __init__(self, *, deadlines: Deadlines, left: int = 0) -> None:
        self.left = left
        self._stall = deadlines.stall
        self._rate_window = RateWindow(min_rate=deadlines.min_rate, window=deadlines.rate_window)
        self._rate_floor = RateFloor(floors=deadlines.floors)
        self._last_wait = 0.0
        self._recorded = 0.0
        self._move: Move | None = None
        self._checked = (0, 0.0)  # bytes and seconds of the move at the last check

    def __repr__(self) -> str:
        return f"<StallDetector {self._rate_window!r}>"

    @property
    def waited(self) -> float:
        """Seconds of waiting for the peer, in all."""
        if self._move is None:
            return self._recorded
        since_check = self._move.waits.source_at(time.monotonic()) - self._checked[1]
        return self._recorded + max(0.0, since_check)

    # A body that the event loop receives

    async def wait(self, peer: socket.socket) -> None:
        """Return once the peer has sent something. Raises PeerStalled."""
        began = time.monotonic()
        try:
            await _readable(peer.fileno(), self._stall)
        except TimeoutError as error:
            raise PeerStalled("nothing came within the deadline") from error
        self._last_wait += time.monotonic() - began

    def record(self, count: int) -> None:
        """Record the bytes that came after the last wait. Raises PeerStalled for a trickle."""
        waited, self._last_wait = self._last_wait, 0.0
        self._record(count, waited)

    # A body that a thread moves

    @contextmanager
    def watching(self, move: Move) -> Iterator[None]:
        """Watch a move while the block lasts."""
        self._move, self._checked = move, (0, 0.0)
        try:
            yield
        finally:
            self._recorded, self._move = self.waited, None

    def check(self, now: float) -> float:
        """Return the seconds until the next check of the move. Raises PeerStalled."""
        assert self._move is not None  # noqa: S101 - `watching` has set it
        waits, received = self._move.waits, self._move.received
        waited = waits.source_at(now)
        stall_left = self._stall - (now - waits.since if waits.side is Side.SOURCE else 0.0)
        if waits.side is Side.SOURCE and stall_left <= 0:
            raise PeerStalled("nothing came within the deadline")
        before, self._checked = self._checked, (received, waited)
        self._record(received - before[0], waited - before[1])
        return min(CHECK_INTERVAL, stall_left)

    def _record(self, count: int, waited: float) -> None:
        self._recorded += waited
        self.left -= count
        is_below_floor = self._rate_floor.is_too_slow(count, waited, self.left)
        if self._rate_window.is_too_slow(count, waited) or is_below_floor:
            raise PeerStalled("the peer sends below the minimum rate")


async def _readable(fd: int, timeout: float) -> None:
    """Return once there is input, or an end. Raises TimeoutError after so many seconds."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(timeout):
            await ready.wait()
    finally:
        loop.remove_reader(fd)
