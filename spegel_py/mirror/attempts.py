"""The requests of one pull to peers: each is timed, recorded once, and logged if it failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import structlog

from spegel_py.errors import (
    DigestMismatch,
    PeerError,
    PeerLoops,
    PeerRefused,
    PeerStalled,
    PeerTagNotBelieved,
    PeerTagTooOld,
    PeerUnproven,
)
from spegel_py.mirror.hedge_schedule import LatencyWindow
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.scores import (
    SHUN_BROKEN,
    SHUN_BUSY,
    SHUN_WRONG,
    AttemptResult,
    Scores,
)
from spegel_py.mirror.selector import PeerSelector
from spegel_py.outcomes import AttemptOutcome, AttemptRecord
from spegel_py.routing.base import Peer
from spegel_py.telemetry.tracing import NO_SPAN, Attributes, Span, attributes
from spegel_py.transfer.base import PeerAnswer, PeerRequest, Upstream, UpstreamResponse

log = structlog.get_logger(__name__)


MIN_PACE_BYTES = 1024 * 1024
"""Bytes of a body that show how fast its peer is; a smaller body comes with the head or soon."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One request to one peer.

    Args:
        peer: the peer.
        offset: byte of the content at which the body starts.
        began: monotonic time of the request.
        hedge: True if it was sent because another peer was slow.
        span: the trace's span; the span of the peer's own work is its child.
        in_flight: True if the peer is still getting the content itself.
        first_byte: seconds to the first byte.
        bytes: bytes of the body that were passed on.
        waited: seconds of waiting for the peer in the bodies that have ended.
        ended: monotonic time of the end.
        outcome: how it ended.
        is_open: True while the peer's answer is open.
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
    outcome: AttemptOutcome | None = None
    is_open: bool = False
    context: AsyncExitStack = field(default_factory=AsyncExitStack, repr=False)
    response: UpstreamResponse = field(init=False, repr=False)  # once the peer has answered

    @property
    def answer(self) -> PeerAnswer:
        """The head of the answer."""
        return self.response.answer

    @property
    def pace(self) -> float | None:
        """Seconds of waiting for the peer with each MiB of its bytes; None for a small body."""
        if self.bytes < MIN_PACE_BYTES:
            return None
        return self.waited * MIN_PACE_BYTES / self.bytes

    async def close(self) -> None:
        """Close the answer, if there is one."""
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
            outcome=self.outcome,
            hedge=self.hedge,
            in_flight=self.in_flight,
        )


class Attempts:
    """Makes the requests of one pull, several at a time if needed, and keeps them in `made`.

    The times of a parent, which waits for the content itself, are not counted as peers' latencies.
    `own_id` is this node's peer id.
    """

    def __init__(
        self,
        *,
        key: str,
        upstream: Upstream,
        selector: PeerSelector,
        scores: Scores,
        latencies: LatencyWindow,
        metrics: MirrorMetrics,
        clock: Callable[[], float],
        span: Span = NO_SPAN,
        own_id: str | None = None,
    ) -> None:
        self._key = key
        self._upstream = upstream
        self._selector = selector
        self._scores = scores
        self._latencies = latencies
        self._metrics = metrics
        self._clock = clock
        self._span = span
        self._own_id = own_id
        self.made: list[Attempt] = []

    def __repr__(self) -> str:
        return f"<Attempts at {self._key}: {self.made}>"

    def begin(self, peer: Peer, *, offset: int = 0, hedge: bool = False) -> Attempt:
        """Return a new attempt at a picked peer.

        Every attempt must be ended with `succeed`, `fail`, `leave` or `abandon`.
        """
        attempt = Attempt(
            peer,
            offset,
            self._clock(),
            hedge,
            self._span.child("ask peer"),
            in_flight=self._selector.parent_stall(peer) is not None,
        )
        self.made.append(attempt)
        if hedge:
            self._metrics.hedged()
        return attempt

    async def ask(self, attempt: Attempt, request: PeerRequest) -> UpstreamResponse:
        """Send a request to the peer, in place of an earlier one.

        Raises PeerError, which is not recorded yet. It is PeerLoops if a parent gets the content
        from this node: two coordinators may have named them to each other before one of the two
        was gone. A ring of more nodes shows in its silence.
        """
        await attempt.close()
        stall = self._selector.parent_stall(attempt.peer)
        if attempt.span.headers or stall is not None:
            request = replace(request, stall=stall, trace=attempt.span.headers)
        attempt.response = await attempt.context.enter_async_context(
            self._upstream.open(attempt.peer, request)
        )
        attempt.is_open = True
        if stall is not None and attempt.answer.source == self._own_id:
            raise PeerLoops("the peer takes it from here")
        if attempt.first_byte is None:
            attempt.first_byte = self._clock() - attempt.began
            if stall is None:
                self._latencies.observe(attempt.first_byte)
        return attempt.response

    async def succeed(self, attempt: Attempt) -> None:
        """End an attempt: all bytes came."""
        await self._end(attempt, AttemptOutcome.OK)

    async def leave(self, attempt: Attempt) -> None:
        """End an attempt in the middle of its body: another peer takes over from a slow one."""
        await self._end(attempt, AttemptOutcome.SLOW)

    async def abandon(self, attempt: Attempt) -> None:
        """End an attempt through nobody's fault, unless it has ended already."""
        if attempt.outcome is None:
            await self._end(attempt, AttemptOutcome.ABANDONED)

    async def fail(self, attempt: Attempt, error: PeerError) -> None:
        """End an attempt: the peer failed, after `attempt.bytes` were passed on."""
        outcome, had_promised = _outcome(error), attempt.is_open
        await self._end(attempt, outcome)
        log.info(
            "peer failed",
            key=self._key,
            peer=attempt.peer.id,
            addr=attempt.peer.authority,
            error=str(error),
            outcome=outcome.value,
            offset=attempt.offset + attempt.bytes,
        )
        broke_off = bool(attempt.bytes) or (had_promised and outcome.is_network_error)
        if (seconds := _shun_seconds(outcome, broke_off=broke_off)) is not None:
            self._shun(attempt.peer, seconds)

    def accuse(self, suspects: Sequence[Attempt]) -> None:
        """Record that the content from these attempts was wrong.

        A single peer goes into quarantine. With several it is unknown which peer was wrong, so none
        of the peers is asked for this content again.
        """
        peers = {suspect.peer for suspect in suspects}
        for peer in peers:
            self._shun(peer, SHUN_WRONG)
            quarantine = self._scores.quarantine
            log.warning(
                "peer sent wrong bytes",
                key=self._key,
                peer=peer.id,
                addr=peer.authority,
                suspects=len(peers),
                quarantine_seconds=quarantine.add(peer.id, self._clock())
                if len(peers) == 1
                else None,
            )

    async def succeed_all(self) -> None:
        """End the attempts that have given bytes and have not ended: all bytes came."""
        for attempt in self.made:
            if attempt.outcome is None and attempt.bytes:
                await self.succeed(attempt)

    async def close(self) -> None:
        """Abandon the attempts that have not ended."""
        for attempt in self.made:
            await self.abandon(attempt)

    def _shun(self, peer: Peer, seconds: float) -> None:
        self._scores.shun(self._key, peer, until=self._clock() + seconds)

    async def _end(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        attempt.outcome, attempt.ended = outcome, self._clock()
        silence = 0.0
        if outcome is AttemptOutcome.ABANDONED and attempt.first_byte is None:
            silence = attempt.ended - attempt.began
            if not attempt.in_flight:
                self._latencies.observe_unanswered(silence)
        await attempt.close()
        if attempt.in_flight:
            self._metrics.received_in_flight(attempt.bytes)
        result = AttemptResult(outcome, attempt.first_byte, silence, attempt.pace)
        self._selector.record(attempt.peer, result, attempt.ended)
        self._metrics.attempted(
            outcome,
            peer_id=attempt.peer.id,
            address=attempt.peer.authority,
            first_byte=attempt.first_byte,
            count=attempt.bytes,
            zone=self._scores.zone_of(attempt.peer),
        )
        if attempt.span.is_on:
            failure = outcome.value if outcome.is_failure else ""
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


def _outcome(error: PeerError) -> AttemptOutcome:
    match error:
        case PeerTagTooOld():
            return AttemptOutcome.TOO_OLD
        case PeerTagNotBelieved():
            return AttemptOutcome.UNBELIEVED
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
        case PeerUnproven():
            return AttemptOutcome.UNPROVEN
        case PeerLoops():
            return AttemptOutcome.LOOPS
        case _:
            return AttemptOutcome.UNREACHABLE


def _shun_seconds(outcome: AttemptOutcome, *, broke_off: bool) -> float | None:
    """Return for how many seconds a peer that failed like this is not asked for the same content.

    A peer that `broke_off` had promised the content. The runtime was told so, and asks again at
    this mirror. It must then be sent upstream, even if not one byte has come.
    """
    if outcome is AttemptOutcome.MISMATCH:
        return SHUN_WRONG
    if outcome is AttemptOutcome.BUSY:
        return SHUN_BUSY
    return SHUN_BROKEN if broke_off else None
