"""The peers of one lookup as they come in: the first are asked while the lookup still runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog

from spegel_py.errors import RoutingError
from spegel_py.mirror.selector import PeerSelector
from spegel_py.outcomes import Lookup
from spegel_py.routing.base import Peer, Router

log = structlog.get_logger(__name__)

REFRESH_AFTER = 1.0
"""Seconds after which another lookup is worth its cost: a layer takes about as long."""


class Candidates:
    """The peers of one pull; an async context manager around their lookup.

    Where no peer is left, the key is looked up once more, since another node may have got the
    content meanwhile. After that a parent is looked for.

    Args:
        router: finds the peers.
        key: the content's digest or the tag's full name.
        limit: peers found, at most.
        selector: chooses the next peer.
        wait: seconds to wait for a further peer.
        clock: monotonic seconds.
        on_first: called with the seconds until the first peer was found.
        max_age: seconds ago at which a peer may have pulled a tag, at most.
        find_parent: names a parent for the selector, and returns True if there is one.
    """

    def __init__(
        self,
        *,
        router: Router,
        key: str,
        limit: int,
        selector: PeerSelector,
        wait: float,
        clock: Callable[[], float],
        on_first: Callable[[float], None],
        max_age: float = math.inf,
        find_parent: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._router = router
        self._key = key
        self._limit = limit
        self._selector = selector
        self._wait = wait
        self._clock = clock
        self._on_first = on_first
        self._max_age = max_age
        self._find_parent = find_parent
        self._changed = asyncio.Event()
        self._ended = False
        self._peers: set[Peer] = set()
        self._first: float | None = None
        self._error: str | None = None
        self._began = -math.inf
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def lookup(self) -> Lookup:
        """The results of the lookup so far."""
        return Lookup(
            found=len(self._peers), first=self._first, ended=self._ended, error=self._error
        )

    def take(self) -> Peer | None:
        """Return the next peer to ask, None while no peer is known."""
        return self._selector.pick(self._clock())

    def has_more(self) -> bool:
        """Return True if `take` would return a peer."""
        return self._selector.has_more(self._clock())

    async def wait_for_change(self) -> None:
        """Wait until there is a peer to take, or the lookup ends; for ever after that."""
        self._changed.clear()
        if not self.has_more():
            await self._changed.wait()

    async def wait_for_peer(self) -> bool:
        """Wait for a further peer; return False when no peer is left."""
        # 1. the lookup that runs now
        try:
            async with asyncio.timeout(self._wait):
                while not self.has_more() and not self._ended:
                    await self.wait_for_change()
        except TimeoutError:
            await asyncio.sleep(0)  # a busy loop may not have delivered a peer found in time
        # 2. another lookup
        if not self.has_more() and self.refresh():
            await self.count_within(self._wait)
        # 3. a parent that is still getting the content
        return self.has_more() or (self._find_parent is not None and await self._find_parent())

    async def count_within(self, seconds: float) -> int:
        """Return the number of peers known to have the content after at most so many seconds."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
        return len(self._peers)

    def refresh(self) -> bool:
        """Begin another lookup; return False if the last one is recent enough, or still runs."""
        is_due = self._ended and self._clock() - self._began >= REFRESH_AFTER
        if is_due:
            self._begin()
        return is_due

    def _begin(self) -> None:
        self._began, self._ended = self._clock(), False
        self._task = asyncio.create_task(self._look_up(), name=f"lookup {self._key}")

    async def _look_up(self) -> None:
        began = self._began
        try:
            async for peer in self._router.lookup(
                self._key, limit=self._limit, max_age=self._max_age
            ):
                if len(self._peers | {peer}) > self._limit:
                    break
                self._selector.offer(peer)
                self._changed.set()
                self._peers.add(peer)
                if self._first is None:
                    self._first = self._clock() - began
                    self._on_first(self._first)
        except RoutingError as error:
            self._error = str(error)
            log.warning("lookup failed", key=self._key, error=str(error))
        finally:
            self._ended = True
            self._selector.complete()
            self._changed.set()
