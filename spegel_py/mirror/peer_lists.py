"""The lists of peers: the tags of a repository, and the referrers of a manifest.

A peer answers from its own content alone. Spegel's nodes answer with a 404, so they count as empty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from spegel_py.errors import PeerError, RouterUnavailable
from spegel_py.mirror.scores import Scores
from spegel_py.oci.listing import ListRequest
from spegel_py.oci.reference import tags_key
from spegel_py.routing.base import Peer, Router
from spegel_py.transfer.base import Deadlines, PeerRequest, Upstream

log = structlog.get_logger(__name__)

PEERS = 16
"""Peers asked for one list. With more holders the list may lack tags that few of them have."""

LISTS = 2
"""Lists that are put together at the same time; further ones wait."""

MAX_BODY = 512 * 1024
"""Bytes of a peer's list: 20,000 tags of usual length. A longer one is left out."""


class PeerLists:
    """Asks the peers that have tags of a repository, or the subject of the referrers.

    Args:
        deadlines: `resolve` bounds the lookup, and `manifest` all requests together.
        scores: peers in quarantine and unhealthy peers are not asked.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        router: Router,
        upstream: Upstream,
        deadlines: Deadlines,
        scores: Scores,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._upstream = upstream
        self._deadlines = deadlines
        self._scores = scores
        self._clock = clock
        self._slots = asyncio.Semaphore(LISTS)

    def __repr__(self) -> str:
        return f"<PeerLists over {self._router!r}>"

    async def bodies(self, request: ListRequest) -> list[bytes]:
        """Return the lists that peers answered in time, each as its JSON. Raises nothing."""
        found: list[bytes] = []

        async def ask(peer: Peer) -> None:
            try:
                found.append(await self._ask(peer, request))
            except PeerError as error:
                log.debug("no list from a peer", addr=peer.authority, error=str(error))

        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadlines.manifest), self._slots:
                peers = await self._holders(request)
                await asyncio.gather(*map(ask, peers))
        return found

    async def _holders(self, request: ListRequest) -> list[Peer]:
        key = str(request.subject or tags_key(request.prefix.removesuffix(":")))
        now, found = self._clock(), list[Peer]()
        with suppress(TimeoutError, RouterUnavailable):
            async with asyncio.timeout(self._deadlines.resolve):
                async for peer in self._router.lookup(key, limit=PEERS):
                    is_shunned = self._scores.is_shunned(key, peer, now)
                    if not is_shunned and self._scores.trust(peer, now) > 0:
                        found.append(peer)
        return found

    async def _ask(self, peer: Peer, request: ListRequest) -> bytes:
        """Return a peer's list; empty if it is too long. Raises PeerError."""
        wanted = PeerRequest(target=request.target, accept=("application/json",))
        async with self._upstream.open(peer, wanted) as response:
            return await response.read() if response.answer.length <= MAX_BODY else b""
