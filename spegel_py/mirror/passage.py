"""Passing one body on from peers to a client: where one breaks, another goes on at the very next byte; where one is
slow, several share the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spegel_py.errors import DigestMismatch, PeerError
from spegel_py.mirror.asking import Asking
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.patience import Patience, send
from spegel_py.mirror.spread import WORTH, Spreading
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import PeerRequest, Sink


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
        """Return what is still missing after `sent` bytes; None where that is the whole content."""
        is_whole = self.length - sent == self.size
        return None if is_whole else ByteRange(self.start + sent, self.last)


class Passage:
    """Passes `extent` on, beginning with an attempt whose answer is there.

    `request` gives the request for a part of the content (None for all of it). `continued` is told of each attempt
    that goes on where one broke, `spread` of the byte from which on several peers are asked. They are not without a
    `spreading`; then a peer that `patience` finds too slow is left for the next one, or with neither for none.
    """

    def __init__(
        self,
        *,
        extent: Extent,
        asking: Asking,
        request: Callable[[ByteRange | None], PeerRequest],
        continued: Callable[[Attempt], None],
        spread: Callable[[int], None] = lambda _: None,
        spreading: Spreading | None = None,
        patience: Patience | None = None,
        is_slow: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._extent = extent
        self._asking = asking
        self._request = request
        self._continued = continued
        self._spread = spread
        self._spreading = spreading
        self._patience = spreading.patience if spreading is not None else patience
        self._is_slow = is_slow

    def __repr__(self) -> str:
        return f"<Passage of {self._extent}>"

    async def run(self, attempt: Attempt, sink: Sink) -> None:
        """Send until all was sent or no peer is left, as `sink.sent` then says. Raises ClientGone."""
        going: Attempt | None = attempt
        try:
            while going is not None:
                if not await self._leg(going, sink) and self._spreading is not None:
                    await self._several(self._spreading, sink)
                going = await self._next(sink)
        except DigestMismatch:  # known with the last byte
            self._asking.attempts.accuse(
                [each for each in self._asking.attempts.made if each.bytes]
            )

    async def _leg(self, attempt: Attempt, sink: Sink) -> bool:
        """Pass on what one peer sends, to its end or to where it breaks; False if it was left because it is slow.

        Raises DigestMismatch if the sink found that the content is wrong.
        """
        start, attempts = sink.sent, self._asking.attempts
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
        elif self._spreading is not None:
            await attempts.abandon(attempt)  # it takes part again
        else:
            await attempts.leave(attempt)
        return is_over

    async def _send(self, attempt: Attempt, sink: Sink) -> bool:
        if self._spreading is not None and self._spreading.at_once and self._may_leave(sink):
            return False
        if self._patience is None:
            await attempt.response.send(sink)
            return True
        return await send(
            attempt.response, sink, patience=self._patience, may_stop=lambda: self._may_leave(sink)
        )

    def _may_leave(self, sink: Sink) -> bool:
        """Say whether others can go on, with enough that is worth it; where nobody can, somebody may in a moment."""
        if self._spreading is not None and self._extent.length - sink.sent < WORTH:
            return False
        if self._asking.can_go_on:
            return True
        self._asking.look_again()
        return self._is_slow(sink.sent)

    async def _several(self, spreading: Spreading, sink: Sink) -> None:
        """Pass on what several peers send, the slow one among them, until all was sent or none is left."""
        first = self._extent.start + sink.sent
        self._spread(first)
        await self._asking.spread(
            first, self._extent.last, sink, peers=spreading.peers, request=self._request
        )

    async def _next(self, sink: Sink) -> Attempt | None:
        """Return an attempt that gives exactly what is still missing; None if nothing is, or nobody has it."""
        if sink.sent >= self._extent.length:
            return None
        request, offset = (
            self._request(self._extent.after(sink.sent)),
            self._extent.start + sink.sent,
        )
        if (attempt := await self._asking.race(request, offset=offset)) is not None:
            self._continued(attempt)
        return attempt
