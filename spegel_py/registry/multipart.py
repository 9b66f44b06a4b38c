"""Several byte ranges in one answer: `multipart/byteranges` (RFC 9110, 14.6)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from spegel_py.oci.range import ByteSpan, ContentRange
from spegel_py.transfer.base import Sink


@dataclass(frozen=True, slots=True)
class Multipart:
    """The body of an answer with several parts of content of `size` bytes.

    The `spans` are in order, with gaps between them.
    """

    media_type: str
    size: int
    spans: Sequence[ByteSpan]
    boundary: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def content_type(self) -> str:
        """The Content-Type of the whole answer; each part has the type of the content."""
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def length(self) -> int:
        """Bytes of the body, with the headers between the parts."""
        around = sum(len(self._head(span)) for span in self.spans) + len(self._end)
        return around + sum(length for _, length in self.spans)

    def pieces(self, position: int, data: bytes) -> Iterator[bytes]:
        """Yield the body's bytes for `data`, the content's bytes from `position` on.

        Bytes outside of all parts are left out. Pass all bytes of the parts once and in order, in
        pieces of any length.
        """
        end = position + len(data)
        for span in self.spans:
            start, stop = span[0], sum(span)
            if position <= start < end:
                yield self._head(span)
            if (first := max(start, position)) < (last := min(stop, end)):
                yield data[first - position : last - position]
        if position < sum(self.spans[-1]) <= end:
            yield self._end

    def _head(self, span: ByteSpan) -> bytes:
        lines = (
            "" if span == self.spans[0] else "\r\n",
            f"--{self.boundary}\r\n",
            f"Content-Type: {self.media_type}\r\n",
            f"Content-Range: {ContentRange(*span, self.size)}\r\n\r\n",
        )
        return "".join(lines).encode()

    @property
    def _end(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()


class PartsSink(Sink):
    """Takes the content's bytes from `start` on, and writes the parts of a body to another sink.

    `sent` counts the content's bytes, as the sender does.
    """

    def __init__(self, sink: Sink, *, multipart: Multipart, start: int) -> None:
        self._sink = sink
        self._multipart = multipart
        self._start = start
        self._taken = 0

    def __repr__(self) -> str:
        return f"<PartsSink {self._taken} bytes from {self._start} on>"

    @property
    def sent(self) -> int:
        return self._taken

    async def write(self, data: bytes) -> None:
        position = self._start + self._taken
        self._taken += len(data)
        for piece in self._multipart.pieces(position, data):
            await self._sink.write(piece)
