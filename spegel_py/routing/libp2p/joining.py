"""Looking for peers as long as the node lives: bootstrap while alone and now and then later, and what was lost.

A lost peer is dialled ever less often by its own task (mesh.py). Were that all, two halves of a cluster would meet only
minutes after their partition has healed; so a few of the lost ones, chosen at random, are tried every few seconds: one
that answers leads to all others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from spegel_py.routing.libp2p.bootstrap import Bootstrap, NoBootstrap, Target

log = structlog.get_logger(__name__)

DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between bootstrap attempts while nobody is connected; the last one repeats, each ± 30 %."""
SEEK_INTERVAL = 4.0
"""Seconds, ± 30 %, between two looks for lost peers: with a dial's 3 s, halves meet within 10 s of their healing."""
_JITTER = (0.7, 1.3)


class Joining:
    """`reach` dials targets and says how many of them name another node than this one; `seek` dials lost peers."""

    def __init__(
        self,
        *,
        bootstrap: Bootstrap,
        is_connected: Callable[[], bool],
        reach: Callable[[Sequence[Target]], Awaitable[int]],
        seek: Callable[[], Awaitable[None]],
        rng: random.Random,
    ) -> None:
        self._bootstrap = bootstrap
        self._is_connected = is_connected
        self._reach = reach
        self._seek = seek
        self._rng = rng
        self._nudge = asyncio.Event()
        self.expects_peers = not isinstance(bootstrap, NoBootstrap)
        """Whether there ought to be other nodes: some source of them is set, and it did not name this one only."""

    def __repr__(self) -> str:
        return f"<Joining by {type(self._bootstrap).__name__}, expects peers: {self.expects_peers}>"

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_bootstrapping(), name="libp2p bootstrap")
            group.create_task(self._keep_seeking(), name="libp2p seek")

    async def now(self) -> None:
        """Have the source asked at once, with the back-off begun anew, and return when some lost peers were tried."""
        self._nudge.set()
        await self._seek()

    async def _keep_bootstrapping(self) -> None:
        attempt = 0
        while True:
            if await self._once():
                attempt, delay = 0, self._bootstrap.interval
            else:
                delay = DELAYS[min(attempt, len(DELAYS) - 1)]
                attempt += 1
            if await self._disturbed(delay * self._rng.uniform(*_JITTER)):
                attempt = 0

    async def _once(self) -> bool:
        """Try the bootstrap targets; say whether any peer is connected afterwards."""
        try:
            if targets := await self._bootstrap.find():
                self.expects_peers = await self._reach(targets) > 0
        except Exception as error:  # noqa: BLE001 - whatever it is (the libp2p side is down), the next must come
            log.debug("bootstrap attempt failed", error=repr(error))
        return self._is_connected()

    async def _keep_seeking(self) -> None:
        while True:
            await asyncio.sleep(SEEK_INTERVAL * self._rng.uniform(*_JITTER))
            try:
                await self._seek()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next look must come
                log.debug("looking for lost peers failed", error=repr(error))

    async def _disturbed(self, delay: float) -> bool:
        """Wait for `delay` seconds; shorter, and True, if the last peer goes meanwhile or somebody asks for it."""
        loop, had_peers = asyncio.get_running_loop(), self._is_connected()
        end = loop.time() + delay
        while (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(max(left, 0.01), 1.0)):  # a loop's clock is coarse
                    await self._nudge.wait()
            except TimeoutError:
                if not had_peers or self._is_connected():
                    continue
            self._nudge.clear()
            return True
        return False
