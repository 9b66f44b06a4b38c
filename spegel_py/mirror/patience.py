"""Passing a body on for as long as its peer is quick enough, or there is no better one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from spegel_py.errors import PeerStalled
from spegel_py.transfer.base import MIN_RATE, Loan, Sink, UpstreamResponse
from spegel_py.transfer.pace import Pace

INTERVAL = 0.5
"""Seconds between two looks at how a body is doing."""


@dataclass(frozen=True, slots=True)
class Patience:
    """A peer is left that sends less than `min_rate` bytes per second over `window` seconds of waiting for it.

    One that trickles, below `hopeless`, has failed; any other may be asked again.
    """

    min_rate: int
    window: float
    hopeless: int = MIN_RATE


async def send(
    response: UpstreamResponse, sink: Sink, *, patience: Patience, may_stop: Callable[[], bool]
) -> bool:
    """Pass the body on to its end; False where it was left because the peer is too slow and it may stop.

    `sink.sent` says how far it came. Raises what `response.send` raises, and PeerStalled for a trickle.
    """
    watched, watch = _Watched(sink), _Watch(response, patience, may_stop)
    watching = asyncio.create_task(watch.run(watched, _this_task()), name="watch a body")
    try:
        await response.send(watched)
    except asyncio.CancelledError:
        if not watch.has_stopped or _this_task().uncancel():
            raise
        if watch.is_hopeless:
            raise PeerStalled("the peer trickles") from None
        return False
    finally:
        watching.cancel()
    return True


class _Watch:
    """Cancels the task that sends, at a moment when every byte taken is known to have been sent."""

    def __init__(
        self, response: UpstreamResponse, patience: Patience, may_stop: Callable[[], bool]
    ) -> None:
        self._response = response
        self._pace = Pace(min_rate=patience.min_rate, window=patience.window)
        self._trickle = Pace(min_rate=patience.hopeless, window=patience.window)
        self._may_stop = may_stop
        self.has_stopped = self.is_hopeless = False

    async def run(self, sink: _Watched, sending: asyncio.Task[object]) -> None:
        sent, waited = sink.sent, self._response.waited
        while not self.has_stopped:
            await asyncio.sleep(INTERVAL)
            count, seconds = sink.sent - sent, self._response.waited - waited
            is_slow, is_hopeless = (
                self._pace.is_too_slow(count, seconds),
                self._trickle.is_too_slow(count, seconds),
            )
            sent, waited = sink.sent, self._response.waited
            if is_slow and self._may_stop() and not sink.is_writing:
                self.has_stopped, self.is_hopeless = True, is_hopeless
                sending.cancel()


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("bodies are sent in tasks")
    return task


class _Watched(Sink):
    """A sink of which is known whether it is being written to: what is cut off in that may have been sent or not."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.is_writing = False

    @property
    def sent(self) -> int:
        return self._sink.sent

    async def write(self, data: bytes) -> None:
        self.is_writing = True
        try:
            await self._sink.write(data)
        finally:
            self.is_writing = False

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Loan | None]:
        async with self._sink.lend() as loan:
            yield loan
