"""Finds the other holders of this node's content, for a whole listing and in bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from spegel_py.errors import RoutingError
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import Peer, Router
from spegel_py.tools.bounded import BoundedDict

PEERS = 100
"""Peers named for one digest at most."""

CALLS = 16
"""Lookups at the same time: above the mesh limit each lookup is a hop over the network."""

WITHIN = 2.0
"""Seconds for the lookups of one listing. The holders of digests that are late stay unknown."""

FRESH = 5.0
"""Seconds for which an answer is reused."""

REMEMBERED = 2048
"""Digests whose answers are remembered."""


class HolderCache:
    """Asks the `router`, and remembers the answers for a few seconds.

    `clock` is monotonic, in seconds.
    """

    def __init__(
        self, *, router: Router, within: float = WITHIN, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._router = router
        self._within = within
        self._clock = clock
        self._known: BoundedDict[Digest, tuple[float, tuple[Peer, ...]]] = BoundedDict(
            limit=REMEMBERED
        )

    def __repr__(self) -> str:
        return f"<HolderCache of {len(self._known)} digests, by {self._router!r}>"

    async def of(self, digests: Collection[Digest]) -> Mapping[Digest, tuple[Peer, ...]]:
        """Return the peers that have each digest. Digests that are late are left out."""
        now = self._clock()
        fresh = {
            digest
            for digest in digests
            if digest in self._known and now - self._known[digest][0] < FRESH
        }
        found = {digest: self._known[digest][1] for digest in fresh}
        slots = asyncio.Semaphore(CALLS)

        async def ask(digest: Digest) -> None:
            async with slots:
                with suppress(RoutingError):
                    found[digest] = await self._lookup(digest)
                    self._remember(digest, found[digest])

        with suppress(TimeoutError):
            async with asyncio.timeout(self._within), asyncio.TaskGroup() as tasks:
                for digest in set(digests) - fresh:
                    tasks.create_task(ask(digest))
        return found

    async def _lookup(self, digest: Digest) -> tuple[Peer, ...]:
        return tuple(sorted([peer async for peer in self._router.lookup(str(digest), limit=PEERS)]))

    def _remember(self, digest: Digest, peers: tuple[Peer, ...]) -> None:
        self._known[digest] = (self._clock(), peers)
