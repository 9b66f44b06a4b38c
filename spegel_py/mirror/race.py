"""Asking several peers for the same thing, the next one where those before are slow or fail: the first answer wins."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from spegel_py.errors import PeerError, RangeInvalid
from spegel_py.mirror.attempts import Attempt, Attempts
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.hedge import Schedule
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer, PeerRequest

Check = Callable[[PeerAnswer, Peer], object]
"""Looks at an answer's head, and raises PeerError to refuse it, or RangeInvalid to end the race with it."""


class Race:
    """One race for an answer to `request`, whose body starts at the byte `offset` of the content."""

    def __init__(
        self,
        *,
        request: PeerRequest,
        check: Check,
        offset: int,
        schedule: Schedule,
        candidates: Candidates,
        attempts: Attempts,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._check = check
        self._offset = offset
        self._schedule = schedule
        self._candidates = candidates
        self._attempts = attempts
        self._clock = clock
        self._asking: dict[asyncio.Task[None], Attempt] = {}

    def __repr__(self) -> str:
        return f"<Race of {len(self._asking)} peers {self._schedule!r}>"

    async def run(self) -> Attempt | None:
        """Return the attempt whose usable answer was there first, None if there is no peer left.

        The others are hung up on and recorded as abandoned; they may be asked again. Raises RangeInvalid.
        """
        try:
            while True:
                self._ask_who_is_due()
                if not self._asking:
                    if not await self._candidates.wait():
                        return None
                elif (winner := await self._event()) is not None:
                    return winner
        finally:
            await self._leave()

    def _ask_who_is_due(self) -> None:
        while (
            self._schedule.due() <= (now := self._clock())
            and (peer := self._candidates.take()) is not None
        ):
            attempt = self._attempts.begin(
                peer, offset=self._offset, hedge=self._schedule.asked(now)
            )
            self._asking[asyncio.create_task(self._ask(attempt), name=f"ask {peer}")] = attempt

    async def _ask(self, attempt: Attempt) -> None:
        """Get a usable answer from a peer. Raises PeerError and RangeInvalid, both recorded."""
        try:
            response = await self._attempts.ask(attempt, self._request)
            self._check(response.answer, attempt.peer)
        except PeerError as error:
            await self._attempts.fail(attempt, error)
            raise
        except RangeInvalid:
            await self._attempts.succeed(attempt)
            raise

    async def _event(self) -> Attempt | None:
        """Wait until a peer has answered, one has failed, or another can be asked; return who has won."""
        due = self._schedule.due()
        waits: set[asyncio.Task[None]] = set(self._asking)
        news = asyncio.create_task(self._candidates.news()) if due <= self._clock() else None
        if news is not None:
            waits.add(news)
        timeout = due - self._clock() if news is None and due < math.inf else None
        try:
            done, _ = await asyncio.wait(
                waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if news is not None:
                news.cancel()
        for task in done - {news}:
            attempt = self._asking.pop(task)
            try:
                task.result()
            except PeerError:
                self._schedule.failed()
                continue
            return attempt
        return None

    async def _leave(self) -> None:
        """Hang up on everybody who is still being asked, or has answered too late."""
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)
        for task, attempt in self._asking.items():
            if not task.cancelled():
                task.exception()  # recorded and logged
            await self._attempts.abandon(attempt)
