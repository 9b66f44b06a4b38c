"""One request to several peers, one after the other: the first usable answer wins."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from spegel_py.errors import PeerError, RangeInvalid
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.hedge_schedule import HedgeSchedule
from spegel_py.mirror.pull_state import PullState
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer, PeerRequest

Check = Callable[[PeerAnswer, Peer], object]
"""Checks an answer's head. Raises PeerError to refuse it, or RangeInvalid to end the request."""


class HedgedRequest:
    """Asks the candidates of a pull for `request`, whose body starts at the byte `offset`."""

    def __init__(
        self,
        state: PullState,
        request: PeerRequest,
        *,
        check: Check = lambda *_: None,
        offset: int = 0,
    ) -> None:
        self._state = state
        self._request = request
        self._check = check
        self._offset = offset
        self._schedule = HedgeSchedule(delays=state.latencies.delays())
        self._pending: dict[asyncio.Task[None], Attempt] = {}

    def __repr__(self) -> str:
        return f"<HedgedRequest to {len(self._pending)} peers {self._schedule!r}>"

    async def run(self) -> Attempt | None:
        """Return the attempt with the first usable answer, None if no peer is left.

        All other attempts are hung up on and recorded as abandoned; their peers may be asked again.
        Raises RangeInvalid.
        """
        try:
            while True:
                self._ask_due_peers()
                if not self._pending:
                    if not await self._state.candidates.wait_for_peer():
                        return None
                elif (winner := await self._next_winner()) is not None:
                    return winner
        finally:
            await self._abandon_pending()

    def _ask_due_peers(self) -> None:
        state = self._state
        while (
            self._schedule.due() <= (now := state.clock())
            and (peer := state.candidates.take()) is not None
        ):
            is_hedge = self._schedule.record_request(now)
            attempt = state.attempts.begin(peer, offset=self._offset, hedge=is_hedge)
            task = asyncio.create_task(self._ask(attempt), name=f"ask {peer}")
            self._pending[task] = attempt

    async def _ask(self, attempt: Attempt) -> None:
        """Get a usable answer from a peer. Raises PeerError and RangeInvalid, both recorded."""
        attempts = self._state.attempts
        try:
            response = await attempts.ask(attempt, self._request)
            self._check(response.answer, attempt.peer)
        except PeerError as error:
            await attempts.fail(attempt, error)
            raise
        except RangeInvalid:
            await attempts.succeed(attempt)
            raise

    async def _next_winner(self) -> Attempt | None:
        """Wait for an answer, a failure, or the time for the next peer; return a usable attempt."""
        due, clock = self._schedule.due(), self._state.clock
        waits: set[asyncio.Task[None]] = set(self._pending)
        # a peer is due, but no candidate is known: wait for one too
        more = (
            asyncio.create_task(self._state.candidates.wait_for_change())
            if due <= clock()
            else None
        )
        if more is not None:
            waits.add(more)
        timeout = due - clock() if more is None and due < math.inf else None
        try:
            done, _ = await asyncio.wait(
                waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if more is not None:
                more.cancel()
        for task in done - {more}:
            attempt = self._pending.pop(task)
            try:
                task.result()
            except PeerError:
                self._schedule.record_failure()
                continue
            return attempt
        return None

    async def _abandon_pending(self) -> None:
        """Hang up on the peers that are still being asked, or have answered too late."""
        for task in self._pending:
            task.cancel()
        if self._pending:
            await asyncio.wait(self._pending)
        for task, attempt in self._pending.items():
            if not task.cancelled():
                task.exception()  # recorded and logged
            await self._state.attempts.abandon(attempt)
