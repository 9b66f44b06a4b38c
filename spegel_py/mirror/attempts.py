"""The requests that one pull makes to peers: each is timed, recorded exactly once, and logged if it failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from spegel_py.errors import DigestMismatch, PeerError, PeerLoops, PeerRefused, PeerStalled
from spegel_py.mirror.hedge import Latencies
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.scores import SHUN_BROKEN, SHUN_BUSY, SHUN_WRONG, Outcome, Scores
from spegel_py.mirror.selector import PeerSelector
from spegel_py.outcomes import AttemptOutcome, AttemptRecord
from spegel_py.routing.base import Peer
from spegel_py.telemetry.tracing import NO_SPAN, Attributes, Span, attributes
from spegel_py.transfer.base import PeerAnswer, PeerRequest, Upstream, UpstreamResponse

log = structlog.get_logger(__name__)


LARGE = 1024 * 1024
"""Bytes of a body that say how fast its peer is; smaller ones come with the head or soon after."""


@dataclass(slots=True, eq=False)
class Attempt:
    """What is asked of one peer; `offset` is the byte of the content it starts at, `bytes` what was passed on of it.

    `waited` is for how many seconds the peer was waited for in the bodies that have ended. A `hedge` was asked because
    another peer was slow, a peer `in_flight` because it is getting the content itself. The peer's own work is a child
    of `span`.
    """

    peer: Peer
    offset: int
    began: float
    hedge: bool = False
    span: Span = field(default=NO_SPAN, repr=False)
    in_flight: bool = False
    first_byte: float | None = None
    bytes: int = 0
    waited: float = 0.0
    ended: float | None = None
    result: AttemptOutcome | None = None
    is_open: bool = False
    context: AsyncExitStack = field(default_factory=AsyncExitStack, repr=False)
    response: UpstreamResponse = field(init=False, repr=False)  # once the peer has answered

    @property
    def answer(self) -> PeerAnswer:
        """The head of the answer."""
        return self.response.answer

    @property
    def pace(self) -> float | None:
        """The seconds for which the peer was waited for with each MiB that it gave; None of a small body."""
        return self.waited * LARGE / self.bytes if self.bytes >= LARGE else None

    async def leave(self) -> None:
        """End the answer under way, if there is one."""
        if self.is_open:
            self.waited += self.response.waited
            self.is_open = False
        await self.context.aclose()

    def record(self) -> AttemptRecord:
        """Return the record of this attempt, which is logged and kept."""
        return AttemptRecord(
            peer=self.peer.id,
            address=self.peer.authority,
            offset=self.offset,
            bytes=self.bytes,
            milliseconds=round(((self.ended or self.began) - self.began) * 1000, 1),
            outcome=self.result,
            hedge=self.hedge,
            in_flight=self.in_flight,
        )


class InFlight(Protocol):
    """Knows the peers that are getting the content themselves."""

    def stall(self, peer: Peer) -> float | None:
        """Return for how many seconds such a peer may be silent; None of any other."""
        ...

    def check(self, answer: PeerAnswer) -> None:
        """Look at such a peer's answer. Raises PeerLoops if it takes the content from here."""
        ...


class Attempts:
    """Makes requests, several at a time where that is wanted, and keeps what became of them.

    What a peer takes to answer that waits for the content itself, as `in_flight` knows, says nothing of peers at large.
    """

    in_flight: InFlight | None

    def __init__(
        self,
        *,
        key: str,
        upstream: Upstream,
        selector: PeerSelector,
        scores: Scores,
        latencies: Latencies,
        metrics: MirrorMetrics,
        clock: Callable[[], float],
        span: Span = NO_SPAN,
    ) -> None:
        self._key = key
        self._upstream = upstream
        self._selector = selector
        self._scores = scores
        self._latencies = latencies
        self._metrics = metrics
        self._clock = clock
        self.in_flight = None
        self._span = span
        self.made: list[Attempt] = []

    def __repr__(self) -> str:
        return f"<Attempts at {self._key}: {self.made}>"

    def begin(self, peer: Peer, *, offset: int = 0, hedge: bool = False) -> Attempt:
        """Begin with a picked peer; every attempt is to be ended with `succeed`, `fail`, `leave` or `abandon`."""
        attempt = Attempt(
            peer,
            offset,
            self._clock(),
            hedge,
            self._span.child("ask peer"),
            in_flight=self._stall(peer) is not None,
        )
        self.made.append(attempt)
        if hedge:
            self._metrics.hedged()
        return attempt

    async def ask(self, attempt: Attempt, request: PeerRequest) -> UpstreamResponse:
        """Put a request to the peer, in place of the one before. Raises PeerError, which is not recorded yet."""
        await attempt.leave()
        stall = self._stall(attempt.peer)
        if attempt.span.headers or stall is not None:
            request = replace(request, stall=stall, trace=attempt.span.headers)
        attempt.response = await attempt.context.enter_async_context(
            self._upstream.open(attempt.peer, request)
        )
        attempt.is_open = True
        if self.in_flight is not None and stall is not None:
            self.in_flight.check(attempt.response.answer)
        if attempt.first_byte is None:
            attempt.first_byte = self._clock() - attempt.began
            if stall is None:
                self._latencies.observe(attempt.first_byte)
        return attempt.response

    async def succeed(self, attempt: Attempt) -> None:
        """End an attempt: all was there."""
        await self._settle(attempt, AttemptOutcome.OK)

    async def leave(self, attempt: Attempt) -> None:
        """End an attempt in the middle of its body: the peer is slow, and another is to go on."""
        await self._settle(attempt, AttemptOutcome.SLOW)

    async def abandon(self, attempt: Attempt) -> None:
        """End an attempt through nobody's fault, unless it has ended already."""
        if attempt.result is None:
            await self._settle(attempt, AttemptOutcome.ABANDONED)

    async def fail(self, attempt: Attempt, error: PeerError) -> None:
        """End an attempt: the peer failed, after `attempt.bytes` were passed on."""
        result, had_promised = _result(error), attempt.is_open
        await self._settle(attempt, result)
        log.info(
            "peer failed",
            key=self._key,
            peer=attempt.peer.id,
            addr=attempt.peer.authority,
            error=str(error),
            outcome=result.value,
            offset=attempt.offset + attempt.bytes,
        )
        broke_off = bool(attempt.bytes) or (had_promised and result.is_network_error)
        if (pause := _pause(result, broke_off=broke_off)) is not None:
            self._shun(attempt.peer, pause)

    def accuse(self, suspects: Sequence[Attempt]) -> None:
        """Note that the content these gave was wrong: a single peer goes into quarantine.

        Of several nobody knows which it was; none is asked for this content again.
        """
        peers = {suspect.peer for suspect in suspects}
        for peer in peers:
            self._shun(peer, SHUN_WRONG)
            log.warning(
                "peer sent wrong bytes",
                key=self._key,
                peer=peer.id,
                addr=peer.authority,
                suspects=len(peers),
                quarantine_seconds=self._scores.quarantine.add(peer.id, self._clock())
                if len(peers) == 1
                else None,
            )

    async def succeed_all(self) -> None:
        """End what has given bytes and has not ended: all was there."""
        for attempt in self.made:
            if attempt.result is None and attempt.bytes:
                await self.succeed(attempt)

    async def close(self) -> None:
        """Abandon all that has not ended."""
        for attempt in self.made:
            await self.abandon(attempt)

    def _stall(self, peer: Peer) -> float | None:
        return self.in_flight.stall(peer) if self.in_flight is not None else None

    def _shun(self, peer: Peer, seconds: float) -> None:
        self._scores.shun(self._key, peer, until=self._clock() + seconds)

    async def _settle(self, attempt: Attempt, result: AttemptOutcome) -> None:
        attempt.result, attempt.ended = result, self._clock()
        silence = 0.0
        if result is AttemptOutcome.ABANDONED and attempt.first_byte is None:
            silence = attempt.ended - attempt.began
            if not attempt.in_flight:
                self._latencies.observe_unanswered(silence)
        await attempt.leave()
        if attempt.in_flight:
            self._metrics.received_in_flight(attempt.bytes)
        self._selector.record(
            attempt.peer, Outcome(result, attempt.first_byte, silence, attempt.pace), attempt.ended
        )
        self._metrics.attempted(
            result,
            peer_id=attempt.peer.id,
            address=attempt.peer.authority,
            first_byte=attempt.first_byte,
            count=attempt.bytes,
        )
        if attempt.span.is_on:
            failure = result.value if result.is_failure else ""
            attempt.span.end(_span_attributes(attempt.record()), failure=failure)


def _span_attributes(record: AttemptRecord) -> Attributes:
    return attributes(
        {
            "server.address": record.address,
            "spegel.peer": record.peer,
            "spegel.offset": record.offset,
            "spegel.bytes": record.bytes,
            "spegel.outcome": record.outcome.value if record.outcome else None,
            "spegel.hedge": record.hedge,
        }
    )


def _result(error: PeerError) -> AttemptOutcome:
    match error:
        case PeerRefused(status=404):
            return AttemptOutcome.NOT_FOUND
        case PeerRefused(status=503):
            return AttemptOutcome.BUSY
        case PeerRefused():
            return AttemptOutcome.REFUSED
        case PeerStalled():
            return AttemptOutcome.STALLED
        case DigestMismatch():
            return AttemptOutcome.MISMATCH
        case PeerLoops():
            return AttemptOutcome.LOOPS
        case _:
            return AttemptOutcome.UNREACHABLE


def _pause(result: AttemptOutcome, *, broke_off: bool) -> float | None:
    """Return for how many seconds a peer that failed like this is not asked for the same content.

    A peer that `broke_off` had promised the content: the runtime was told so, and asks again at this mirror. It must
    then be sent upstream, also where not one byte has come.
    """
    if result is AttemptOutcome.MISMATCH:
        return SHUN_WRONG
    if result is AttemptOutcome.BUSY:
        return SHUN_BUSY
    return SHUN_BROKEN if broke_off else None
