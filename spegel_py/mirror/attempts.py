"""The requests that one pull makes to peers: each is timed, recorded exactly once, and logged if it failed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from spegel_py.errors import DigestMismatch, PeerError, PeerRefused, PeerStalled
from spegel_py.mirror.scores import SHUN_BROKEN, SHUN_WRONG, Outcome, Result, Scores
from spegel_py.mirror.selector import PeerSelector
from spegel_py.routing.base import Peer
from spegel_py.telemetry.metrics import Metrics
from spegel_py.transfer.base import PeerRequest, Upstream, UpstreamResponse

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Attempt:
    """One request to a peer; `offset` is the byte of the content it starts at, `bytes` what was passed on of it."""

    peer: Peer
    offset: int
    began: float
    first_byte: float | None = None
    bytes: int = 0
    ended: float | None = None
    result: Result | None = None

    def as_log(self) -> dict[str, object]:
        """Return the entry of the `attempts` field of `relay finished` and `relay missed`."""
        return {
            "peer": self.peer.id,
            "addr": self.peer.authority,
            "offset": self.offset,
            "bytes": self.bytes,
            "ms": round(((self.ended or self.began) - self.began) * 1000, 1),
            "outcome": self.result.value if self.result else None,
        }


class Attempts:
    """Makes one request after the other, and keeps what became of them."""

    def __init__(
        self,
        *,
        key: str,
        upstream: Upstream,
        selector: PeerSelector,
        scores: Scores,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._key = key
        self._upstream = upstream
        self._selector = selector
        self._scores = scores
        self._metrics = metrics
        self._clock = clock
        self._stack = AsyncExitStack()
        self.made: list[Attempt] = []

    def __repr__(self) -> str:
        return f"<Attempts at {self._key}: {self.made}>"

    async def start(self, peer: Peer, request: PeerRequest, *, offset: int = 0) -> UpstreamResponse:
        """Ask a picked peer; the one before must have been settled. Raises PeerError, recorded already."""
        attempt = Attempt(peer, offset, self._clock())
        self.made.append(attempt)
        try:
            response = await self._stack.enter_async_context(self._upstream.open(peer, request))
        except PeerError as error:
            await self.fail(error)
            raise
        attempt.first_byte = self._clock() - attempt.began
        return response

    async def ask_again(self, request: PeerRequest) -> UpstreamResponse:
        """Put another request to the peer that is being asked, as part of the same attempt. Raises
        PeerError, which is still to be recorded with `fail`."""
        await self._stack.aclose()
        return await self._stack.enter_async_context(self._upstream.open(self.made[-1].peer, request))

    async def succeed(self, count: int = 0) -> None:
        """End the attempt under way: all was there, `count` bytes were passed on."""
        await self._settle(Result.OK, count)

    async def fail(self, error: PeerError, count: int = 0) -> None:
        """End the attempt under way: the peer failed after `count` bytes were passed on."""
        attempt, result = self.made[-1], _result(error)
        await self._settle(result, count)
        log.info(
            "peer failed",
            key=self._key,
            peer=attempt.peer.id,
            addr=attempt.peer.authority,
            error=str(error),
            outcome=result.value,
            offset=attempt.offset + count,
        )
        if result is Result.MISMATCH or count:
            pause = SHUN_WRONG if result is Result.MISMATCH else SHUN_BROKEN
            self._scores.shun(self._key, attempt.peer, until=self._clock() + pause)

    async def abandon(self, count: int = 0) -> None:
        """End the attempt under way, if there is one, through nobody's fault."""
        if self.made and self.made[-1].result is None:
            await self._settle(Result.ABANDONED, count)

    async def _settle(self, result: Result, count: int) -> None:
        attempt = self.made[-1]
        attempt.result, attempt.bytes, attempt.ended = result, count, self._clock()
        self._selector.record(attempt.peer, Outcome(result, attempt.first_byte), attempt.ended)
        self._metrics.attempted(result.value)
        await self._stack.aclose()


def _result(error: PeerError) -> Result:
    match error:
        case PeerRefused(status=404):
            return Result.NOT_FOUND
        case PeerRefused():
            return Result.REFUSED
        case PeerStalled():
            return Result.STALLED
        case DigestMismatch():
            return Result.MISMATCH
        case _:
            return Result.UNREACHABLE
