"""Watching one body come in from a peer: no wait for it lasts too long, and no trickle passes for a body."""

from __future__ import annotations

import asyncio
import socket

from spegel_py.errors import PeerStalled
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.pace import Pace
from spegel_py.transfer.waiting import readable


class Watch:
    """Waits for the peer within the `stall` deadline, and holds what came against the minimum rate."""

    def __init__(self, *, deadlines: Deadlines) -> None:
        self._stall = deadlines.stall
        self._pace = Pace(min_rate=deadlines.min_rate, window=deadlines.rate_window)
        self._waited = 0.0
        self.total = 0.0
        """Seconds of waiting that were noted, in all."""

    def __repr__(self) -> str:
        return f"<Watch {self._pace!r}>"

    async def wait(self, peer: socket.socket) -> None:
        """Return once the peer has sent something. Raises PeerStalled."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await readable(peer.fileno(), self._stall)
        except TimeoutError as error:
            raise PeerStalled("nothing came within the deadline") from error
        self._waited += loop.time() - began

    def note(self, count: int, waited: float = 0.0) -> None:
        """Note what came after the last wait, and another `waited` seconds. Raises PeerStalled for a trickle."""
        waited, self._waited = self._waited + waited, 0.0
        self.total += waited
        if self._pace.is_too_slow(count, waited):
            raise PeerStalled("the peer sends below the minimum rate")
