"""Passing a body on for as long as its peer is quick enough, or there is no better one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from spegel_py.transfer.base import Loan, Sink, UpstreamResponse
from spegel_py.transfer.pace import Pace

INTERVAL = 0.25
"""Seconds between two looks at how a body is doing."""


async def send(response: UpstreamResponse, sink: Sink, *, pace: Pace, may_stop: Callable[[], bool]) -> bool:
    """Pass the body on to its end; False where it was left because `pace` found the peer too slow and it may stop.

    `sink.sent` says how far it came. Raises what `response.send` raises.
    """
    watched, watch = _Watched(sink), _Watch(response, pace, may_stop)
    watching = asyncio.create_task(watch.run(watched, _this_task()), name="watch a body")
    try:
        await response.send(watched)
    except asyncio.CancelledError:
        if not watch.has_stopped or _this_task().uncancel():
            raise
        return False
    finally:
        watching.cancel()
    return True


class _Watch:
    """Cancels the task that sends, at a moment when every byte taken is known to have been sent."""

    def __init__(self, response: UpstreamResponse, pace: Pace, may_stop: Callable[[], bool]) -> None:
        self._response = response
        self._pace = pace
        self._may_stop = may_stop
        self.has_stopped = False

    async def run(self, sink: _Watched, sending: asyncio.Task[object]) -> None:
        sent, waited = sink.sent, self._response.waited
        while not self.has_stopped:
            await asyncio.sleep(INTERVAL)
            is_slow = self._pace.is_too_slow(sink.sent - sent, self._response.waited - waited)
            sent, waited = sink.sent, self._response.waited
            if is_slow and self._may_stop() and not sink.is_writing:
                self.has_stopped = True
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
