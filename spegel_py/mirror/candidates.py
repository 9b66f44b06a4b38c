"""The peers of one lookup as they come in: the lookup runs on while the first of them are already being asked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from spegel_py.errors import RoutingError
from spegel_py.mirror.selector import PeerSelector
from spegel_py.routing.base import Peer, Router

log = structlog.get_logger(__name__)


class Candidates:
    """An async context manager around a lookup of `key`; `found` is called with the seconds to its first
    peer.

    `wait` is for how many seconds a further peer is waited for at most, `max_age` how many seconds ago a peer may
    have pulled a tag.
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
    ) -> None:
        self._router = router
        self._key = key
        self._limit = limit
        self._selector = selector
        self._wait = wait
        self._clock = clock
        self._found = found
        self._max_age = max_age
        self._news = asyncio.Event()
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look_up(), name=f"lookup {self._key}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

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
        """Wait for a further peer; False when the lookup has ended with nobody left, or after the wait."""
        try:
            async with asyncio.timeout(self._wait):
                while not self.has_more() and not self._ended:
                    await self.news()
        except TimeoutError:
            await asyncio.sleep(0)  # a busy loop may not have handed over what came in time
        return self.has_more()

    async def _look_up(self) -> None:
        began, first = self._clock(), True
        try:
            async for peer in self._router.lookup(self._key, limit=self._limit, max_age=self._max_age):
                self._selector.offer(peer)
                self._news.set()
                if first:
                    first = False
                    self._found(self._clock() - began)
        except RoutingError as error:
            log.warning("lookup failed", key=self._key, error=str(error))
        finally:
            self._ended = True
            self._news.set()
