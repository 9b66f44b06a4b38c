"""Fetching the rest of a body from several peers at once, where a single one is the bottleneck.

It costs several times the CPU of passing one body on, so it is for peers that are slow. Where the client is slow the
window fills, and nobody is asked for more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from spegel_py.errors import PeerError
from spegel_py.mirror.attempts import Attempt, Attempts
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.patience import Patience
from spegel_py.mirror.ranges import PATIENCE, PIECE, Plan
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import PeerRequest, Sink

WORTH = 8 * PIECE
"""Bytes that must be left: below it the first peer is done before others have begun."""

SLOW = Patience(min_rate=20_000_000, window=2.0)
"""20 MB/s is a layer of 100 MB in five seconds; a peer that has a link of 1 Gbit/s to itself gives six times it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreading:
    """When and over how many peers bodies are spread: at once, or where one is too slow for `patience`."""

    peers: int = 4
    at_once: bool = False
    patience: Patience = SLOW


class Spread:
    """The bytes `first` to `last` of the content, on their way from up to `peers` peers to a sink."""

    def __init__(
        self,
        *,
        first: int,
        last: int,
        peers: int,
        candidates: Candidates,
        attempts: Attempts,
        request: Callable[[ByteRange], PeerRequest],
        clock: Callable[[], float],
    ) -> None:
        self._plan = Plan(first=first, last=last)
        self._first = first
        self._peers = peers
        self._candidates = candidates
        self._attempts = attempts
        self._request = request
        self._clock = clock
        self._workers: dict[asyncio.Task[None], Attempt] = {}
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Spread over {len(self._workers)} peers: {self._plan!r}>"

    async def run(self, sink: Sink) -> None:
        """Send until all was sent or no peer is left. Raises ClientGone, and what else the sink raises."""
        try:
            while not self._plan.is_done:
                self._hire()
                if (data := self._plan.pop()) is not None:
                    await sink.write(data)
                    self._tell()
                elif self._workers:
                    await self._change()
                else:
                    return
        finally:
            await self._dismiss()

    def _hire(self) -> None:
        """Put peers to work, in place of those that failed too; where they are too few, somebody may come."""
        for worker in [worker for worker in self._workers if worker.done()]:
            del self._workers[worker]
            worker.result()  # a peer's failure is recorded; anything else is a bug
        while len(self._workers) < self._peers and (peer := self._candidates.take()) is not None:
            attempt = self._attempts.begin(peer, offset=self._first)
            self._workers[asyncio.create_task(self._work(attempt), name=f"ranges of {peer}")] = (
                attempt
            )
        if len(self._workers) < self._peers:
            self._candidates.refresh()

    async def _work(self, attempt: Attempt) -> None:
        """Get one piece after the other from a peer, until it fails."""
        try:
            while True:
                piece = self._plan.take(attempt, self._clock())
                if piece is None:
                    await self._change(PATIENCE / 2)
                    continue
                response = await self._attempts.ask(
                    attempt, self._request(ByteRange(piece.first, piece.last))
                )
                if self._plan.put(piece, data := await response.read()):
                    attempt.bytes += len(data)
                    self._tell()
        except PeerError as error:
            self._plan.drop(attempt)
            await self._attempts.fail(attempt, error)
        finally:
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _change(self, within: float | None = None) -> None:
        """Wait until data came, went, or a peer failed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._news.wait()

    async def _dismiss(self) -> None:
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)
        for attempt in self._workers.values():
            if attempt.bytes and attempt.result is None:
                await self._attempts.succeed(attempt)
            await self._attempts.abandon(attempt)
