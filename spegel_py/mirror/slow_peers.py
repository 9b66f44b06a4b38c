"""Policies for peers that send slowly, and a body that is sent under such a policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from spegel_py.errors import PeerStalled
from spegel_py.transfer.base import MIN_RATE, Sink, SocketLease, UpstreamResponse
from spegel_py.transfer.rates import RateWindow

CHECK_INTERVAL = 0.5
"""Seconds between two measurements of a body's speed."""


@dataclass(frozen=True, slots=True)
class SlowPeerPolicy:
    """A peer is left if it sends less than `min_rate` bytes per second for `window` seconds.

    Only seconds count in which the peer was waited for. A peer below `trickle_rate` has failed; any
    other peer that was left may be asked again.
    """

    min_rate: int
    window: float
    trickle_rate: int = MIN_RATE


SLOW = SlowPeerPolicy(min_rate=20_000_000, window=2.0)
"""At 20 MB/s a layer of 100 MB takes five seconds.

A peer that has a link of 1 Gbit/s to itself sends six times as much.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSettings:
    """When a body is fetched from up to `peers` peers in parallel.

    With `at_once` that is from its beginning, else where a single peer is too slow for `policy`.
    """

    peers: int = 4
    at_once: bool = False
    policy: SlowPeerPolicy = SLOW


async def send_unless_slow(
    response: UpstreamResponse,
    sink: Sink,
    *,
    policy: SlowPeerPolicy,
    may_leave: Callable[[], bool],
) -> bool:
    """Send the body to its end; return False if the peer was left because it is too slow.

    A slow peer is left only if `may_leave` allows it at that moment. `sink.sent` is then the
    position where another peer goes on. Raises what `response.send` raises, and PeerStalled for a
    trickle.
    """
    tracked, monitor = _WriteTracker(sink), SpeedMonitor(response, policy, may_leave)
    monitoring = asyncio.create_task(monitor.run(tracked, _this_task()), name="watch a body")
    try:
        await response.send(tracked)
    except asyncio.CancelledError:
        if not monitor.has_stopped or _this_task().uncancel():
            raise
        if monitor.is_trickle:
            raise PeerStalled("the peer trickles") from None
        return False
    finally:
        monitoring.cancel()
    return True


class SpeedMonitor:
    """Cancels the sending task at a moment when every byte taken is known to have been sent."""

    def __init__(
        self, response: UpstreamResponse, policy: SlowPeerPolicy, may_leave: Callable[[], bool]
    ) -> None:
        self._response = response
        self._slow = RateWindow(min_rate=policy.min_rate, window=policy.window)
        self._trickle = RateWindow(min_rate=policy.trickle_rate, window=policy.window)
        self._may_leave = may_leave
        self.has_stopped = self.is_trickle = False

    async def run(self, sink: _WriteTracker, sending: asyncio.Task[object]) -> None:
        """Measure until the sending task is cancelled."""
        sent, waited = sink.sent, self._response.waited
        while not self.has_stopped:
            await asyncio.sleep(CHECK_INTERVAL)
            count, seconds = sink.sent - sent, self._response.waited - waited
            is_slow = self._slow.is_too_slow(count, seconds)
            is_trickle = self._trickle.is_too_slow(count, seconds)
            sent, waited = sink.sent, self._response.waited
            if is_slow and self._may_leave() and not sink.is_writing:
                self.has_stopped, self.is_trickle = True, is_trickle
                sending.cancel()


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("bodies are sent in tasks")
    return task


class _WriteTracker(Sink):
    """A sink that knows whether a write is under way: after a cancelled write `sent` is unknown."""

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
    async def lease(self) -> AsyncIterator[SocketLease | None]:
        async with self._sink.lease() as lease:
            yield lease
