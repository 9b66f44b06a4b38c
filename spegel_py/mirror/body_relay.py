"""One body on its way from peers to a client, in segments: one peer breaks, another goes on.

Each segment starts at the very next byte. `sink.sent` alone tells where that is. Where a peer is
slow, several peers share the rest, or another peer takes over.
"""

from __future__ import annotations

from dataclasses import dataclass

from spegel_py.errors import DigestMismatch, PeerError
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.hedged_request import HedgedRequest
from spegel_py.mirror.parallel_download import MIN_REST, ParallelDownload
from spegel_py.mirror.parent_source import ParentSource
from spegel_py.mirror.pull_state import PullState
from spegel_py.mirror.slow_peers import ParallelSettings, SlowPeerPolicy, send_unless_slow
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import Sink


@dataclass(frozen=True, slots=True)
class Extent:
    """The `length` bytes from `start` on, of content of `size` bytes."""

    start: int
    length: int
    size: int

    @property
    def last(self) -> int:
        return self.start + self.length - 1

    def after(self, sent: int) -> ByteRange | None:
        """Return the range missing after `sent` bytes; None if that is the whole content."""
        is_whole = self.length - sent == self.size
        return None if is_whole else ByteRange(self.start + sent, self.last)


class BodyRelay:
    """Sends the bytes of `extent`, beginning with an attempt whose peer has answered.

    A slow peer, as `policy` defines it, is left in one of three ways; without a policy it stays.

    1. With `parallel`, several peers share the rest, the slow one among them.
    2. With `parent_source`, the coordinator is asked for a better parent.
    3. With neither, the next peer takes over.
    """

    def __init__(
        self,
        state: PullState,
        extent: Extent,
        *,
        policy: SlowPeerPolicy | None = None,
        parallel: ParallelSettings | None = None,
        parent_source: ParentSource | None = None,
    ) -> None:
        self._state = state
        self._extent = extent
        self._policy = parallel.policy if parallel is not None else policy
        self._parallel = parallel
        self._parent_source = parent_source

    def __repr__(self) -> str:
        return f"<BodyRelay of {self._extent}>"

    async def run(self, attempt: Attempt, sink: Sink) -> None:
        """Send until all was sent, as `sink.sent` then shows, or no peer is left.

        Raises ClientGone.
        """
        current: Attempt | None = attempt
        attempts = self._state.attempts
        try:
            while current is not None:
                if not await self._send_segment(current, sink) and self._parallel is not None:
                    await self._send_in_parallel(self._parallel, sink)
                current = await self._next_attempt(sink)
        except DigestMismatch:  # known with the last byte
            attempts.accuse([each for each in attempts.made if each.bytes])

    async def _send_segment(self, attempt: Attempt, sink: Sink) -> bool:
        """Send one peer's bytes, to their end or to where they break; return False if it was left.

        Raises DigestMismatch if the sink found that the content is wrong.
        """
        start, attempts = sink.sent, self._state.attempts
        try:
            try:
                is_over = await self._send(attempt, sink)
            finally:
                attempt.bytes = sink.sent - start
        except PeerError as error:
            await attempts.fail(attempt, error)
            if isinstance(error, DigestMismatch):
                raise
            return True
        if is_over:
            await attempts.succeed(attempt)
        elif self._parallel is not None:
            await attempts.abandon(attempt)  # it takes part again
        else:
            await attempts.leave(attempt)
        return is_over

    async def _send(self, attempt: Attempt, sink: Sink) -> bool:
        if self._parallel is not None and self._parallel.at_once and self._may_leave(sink):
            return False
        if self._policy is None:
            await attempt.response.send(sink)
            return True
        return await send_unless_slow(
            attempt.response, sink, policy=self._policy, may_leave=lambda: self._may_leave(sink)
        )

    def _may_leave(self, sink: Sink) -> bool:
        """Return True if a slow peer may be left now.

        Case 1: too little is left for a parallel download.
        Case 2: another candidate is known, and can go on.
        Case 3: nobody else is known: look again, and ask the coordinator for a better parent.
        """
        if self._parallel is not None and self._extent.length - sink.sent < MIN_REST:
            return False
        candidates = self._state.candidates
        if candidates.has_more():
            return True
        candidates.refresh()
        return self._parent_source is not None and self._parent_source.is_replaced(sink.sent)

    async def _send_in_parallel(self, parallel: ParallelSettings, sink: Sink) -> None:
        """Send the rest from several peers, until all was sent or none is left."""
        state, first = self._state, self._extent.start + sink.sent
        state.metrics.spread()
        state.log("relay spread", offset=first)
        download = ParallelDownload(
            state,
            first=first,
            last=self._extent.last,
            size=self._extent.size,
            peers=parallel.peers,
        )
        await download.run(sink)

    async def _next_attempt(self, sink: Sink) -> Attempt | None:
        """Return an attempt that gives exactly the missing bytes.

        Return None if no bytes are missing, or no peer is left.
        """
        if sink.sent >= self._extent.length:
            return None
        state, offset = self._state, self._extent.start + sink.sent
        request = state.request(self._extent.after(sink.sent), self._extent.size)
        attempt = await HedgedRequest(state, request, offset=offset).run()
        if attempt is not None:
            state.metrics.resumed()
            state.log(
                "relay continued",
                peer=attempt.peer.id,
                addr=attempt.peer.authority,
                offset=attempt.offset,
            )
        return attempt
