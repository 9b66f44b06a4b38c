"""Makes background transfers give way to the pulls of runtimes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

PAUSE = 0.1
"""Seconds between two looks at the foreground."""

MOST_TAKING = 40.0
"""Seconds for which images that this node takes wait for an end of the pulls. A mirror that cannot
send for a minute hangs up."""

TRICKLE = 0.5
"""Seconds for which each piece waits from then on, so that a cluster in which some runtime always
pulls gets its replicas too: a node takes up to 2 MB/s of each image, and sends up to 0.5 MB/s."""

FORGOTTEN = 10.0
"""Seconds without a background transfer after which it is unknown since when runtimes pull."""

MOST_SENDING = 2.0
"""Seconds for which one piece that is sent to another node waits until then. That node takes a
sender for dead that sends nothing for 3 s."""


class YieldGate:
    """Lets a piece through once no runtime pulls, or after some time.

    Args:
        is_busy: returns True while a runtime pulls at this node or from it.
        waited: is called with the seconds of each wait.
    """

    def __init__(
        self,
        *,
        is_busy: Callable[[], bool],
        waited: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_busy = is_busy
        self._waited = waited
        self._clock = clock
        self._busy_since: float | None = None
        self._looked = -math.inf

    def __repr__(self) -> str:
        return f"<YieldGate busy={self._is_busy()}>"

    async def take(self) -> None:
        """Wait before the next piece of an image that this node takes."""
        if (busy := self._busy_for()) is not None:
            await self._wait(max(MOST_TAKING - busy, TRICKLE))

    async def send(self) -> None:
        """Wait before the next piece that this node sends in the background."""
        if (busy := self._busy_for()) is not None:
            await self._wait(MOST_SENDING if busy < MOST_TAKING else TRICKLE)

    def _busy_for(self) -> float | None:
        """Return the seconds for which some runtime has pulled; None if none does.

        Pulls that nobody has looked at for FORGOTTEN are new ones.
        """
        now, before = self._clock(), self._looked
        self._looked = now
        if not self._is_busy():
            self._busy_since = None
            return None
        if self._busy_since is None or now - before > FORGOTTEN:
            self._busy_since = now
        return now - self._busy_since

    async def _wait(self, most: float) -> None:
        began = self._clock()
        for _ in range(math.ceil(most / PAUSE)):
            await asyncio.sleep(PAUSE)
            if self._busy_for() is None:
                break
        self._waited(self._clock() - began)
