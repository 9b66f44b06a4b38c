"""The peers of one lookup as they come in: the lookup runs on while the first of them are already being asked."""

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

AGE = 1.0
"""Seconds after which a look-up is worth making again: a layer takes about as long."""


class Candidates:
    """An async context manager around a lookup of `key`; `found` is called with the seconds to its first
    peer.

    `wait` is for how many seconds a further peer is waited for at most, `max_age` how many seconds ago a peer may
    have pulled a tag. Where nobody is left, it is looked up once more, since somebody may have got the content
    meanwhile; then `further` may find one more, and says so.
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
        found: Callable[[float], None],
        max_age: float = math.inf,
        further: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._router = router
        self._key = key
        self._limit = limit
        self._selector = selector
        self._wait = wait
        self._clock = clock
        self._found = found
        self._max_age = max_age
        self._further = further
        self._news = asyncio.Event()
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
        """What the lookup has given so far."""
        return Lookup(
            found=len(self._peers), first=self._first, ended=self._ended, error=self._error
        )

    def take(self) -> Peer | None:
        """Return whom to ask next, None while nobody is known."""
        return self._selector.pick(self._clock())

    def has_more(self) -> bool:
        """Say whether `take` would return a peer."""
        return self._selector.has_more(self._clock())

    async def news(self) -> None:
        """Wait until there is somebody to take, or the lookup ends; for ever after that."""
        self._news.clear()
        if not self.has_more():
            await self._news.wait()

    async def wait(self) -> bool:
        """Wait for a further peer; False when nobody is left, nor found in the wait, nor by `further`."""
        try:
            async with asyncio.timeout(self._wait):
                while not self.has_more() and not self._ended:
                    await self.news()
        except TimeoutError:
            await asyncio.sleep(0)  # a busy loop may not have handed over what came in time
        if not self.has_more() and self.refresh():
            await self.found_all(self._wait)
        return self.has_more() or (self._further is not None and await self._further())

    async def found_all(self, within: float) -> int:
        """Return how many peers have it, as far as that is known in so many seconds."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within)
        return len(self._peers)

    def refresh(self) -> bool:
        """Begin to look up once more; False where one of a moment ago, or still under way, will do."""
        is_due = self._ended and self._clock() - self._began >= AGE
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
                self._news.set()
                self._peers.add(peer)
                if self._first is None:
                    self._first = self._clock() - began
                    self._found(self._first)
        except RoutingError as error:
            self._error = str(error)
            log.warning("lookup failed", key=self._key, error=str(error))
        finally:
            self._ended = True
            self._selector.complete()
            self._news.set()
