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
pulls gets its replicas too: 2 MB/s for each image."""

MOST_SENDING = 2.0
"""Seconds for which one piece that is sent to another node waits at most. That node takes a sender
for dead that sends nothing for 3 s."""


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

    def __repr__(self) -> str:
        return f"<YieldGate busy={self._is_busy()}>"

    async def take(self) -> None:
        """Wait before the next piece of an image that this node takes."""
        if not self._is_busy():
            self._busy_since = None
            return
        if self._busy_since is None:
            self._busy_since = self._clock()
        left = self._busy_since + MOST_TAKING - self._clock()
        await self._wait(max(left, TRICKLE))

    async def send(self) -> None:
        """Wait before the next piece that this node sends in the background."""
        if self._is_busy():
            await self._wait(MOST_SENDING)

    async def _wait(self, most: float) -> None:
        began = self._clock()
        for _ in range(math.ceil(most / PAUSE)):
            await asyncio.sleep(PAUSE)
            if not self._is_busy():
                break
        self._waited(self._clock() - began)
