"""Passing one body on from peers to a client: where one breaks, another goes on at the very next byte."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from spegel_py.errors import DigestMismatch, PeerError
from spegel_py.mirror.attempts import Attempt, Attempts
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import Sink

Go = Callable[[ByteRange | None], Awaitable[Attempt | None]]
"""Asks peers for exactly these bytes (None for the whole content); None if nobody has an answer."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The `length` bytes from `start` on, of content of `size` bytes."""

    start: int
    length: int
    size: int

    def after(self, sent: int) -> ByteRange | None:
        """Return what is still missing after `sent` bytes; None where that is the whole content."""
        first, last = self.start + sent, self.start + self.length - 1
        return None if first == 0 and last == self.size - 1 else ByteRange(first, last)


class Passage:
    """Passes `extent` on, beginning with an attempt whose answer is there; `resume` finds who goes on."""

    def __init__(self, *, extent: Extent, attempts: Attempts, resume: Go) -> None:
        self._extent = extent
        self._attempts = attempts
        self._resume = resume

    def __repr__(self) -> str:
        return f"<Passage of {self._extent}>"

    async def run(self, attempt: Attempt, sink: Sink) -> None:
        """Send until all was sent or no peer is left, as `sink.sent` then says. Raises ClientGone."""
        going: Attempt | None = attempt
        while going is not None:
            await self._leg(going, sink)
            is_done = sink.sent >= self._extent.length
            going = None if is_done else await self._resume(self._extent.after(sink.sent))

    async def _leg(self, attempt: Attempt, sink: Sink) -> None:
        """Pass on what one peer sends, to its end or to where it breaks."""
        start = sink.sent
        try:
            try:
                await attempt.response.send(sink)
            finally:
                attempt.bytes = sink.sent - start
        except PeerError as error:
            await self._attempts.fail(attempt, error)
            if isinstance(error, DigestMismatch):
                self._attempts.accuse([each for each in self._attempts.made if each.bytes])
        else:
            await self._attempts.succeed(attempt)
