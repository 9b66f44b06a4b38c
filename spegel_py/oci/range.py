"""Byte ranges of HTTP as values: what is asked for (Range) and what was sent (Content-Range); RFC 9110."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spegel_py.errors import RangeInvalid

_SPEC = re.compile(r"(?P<first>[0-9]{1,19})?-(?P<last>[0-9]{1,19})?")
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})|\*)/(?P<size>[0-9]{1,19})")


def unsatisfiable(size: int) -> RangeInvalid:
    """Return the 416 for content of `size` bytes; it is rendered with `Content-Range: bytes */size`."""
    return RangeInvalid(f"the range lies outside the {size} bytes of the content", detail={"size": size})


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `first` to `last`, both included; to the end without `last`.

    Without `first`, `last` is how many bytes of the end are meant.
    """

    first: int | None
    last: int | None

    def __str__(self) -> str:
        first = "" if self.first is None else self.first
        last = "" if self.last is None else self.last
        return f"bytes={first}-{last}"

    @classmethod
    def parse(cls, text: str) -> ByteRange | None:
        """Return the range of a Range header's value, or None where the whole content is to be sent.

        Ignored, as the RFC allows: other units, several ranges (no client of a registry sends them, and
        multipart answers are what proxies get wrong), and `bytes=0-`, which is the whole content: containerd
        2.1 probes with it and then pulls in one stream only if it is answered with a plain 200.
        Raises RangeInvalid for a `bytes` range that is not one, as Go's file server does.
        """
        unit, equals, specs = text.partition("=")
        if not equals or unit.strip().lower() != "bytes" or "," in specs:
            return None
        match = _SPEC.fullmatch(specs.strip())
        if match is None:
            raise RangeInvalid(f"not a byte range: {text[:80]!r}")
        first, last = (None if end is None else int(end) for end in match.group("first", "last"))
        if (first is None and last is None) or (first is not None and last is not None and last < first):
            raise RangeInvalid(f"not a byte range: {text[:80]!r}")
        return None if first == 0 and last is None else cls(first, last)

    def resolve(self, size: int) -> tuple[int, int]:
        """Return (start, length) within content of `size` bytes, cut at its end, or raise RangeInvalid."""
        if self.first is None:
            length = min(self.last or 0, size)
            start = size - length
        else:
            start = self.first
            length = size - start if self.last is None else min(self.last + 1, size) - start
        if length <= 0:
            raise unsatisfiable(size)
        return start, length


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes of how many an answer holds; without a start, none, because the range lay outside (416)."""

    start: int | None
    length: int
    size: int

    def __str__(self) -> str:
        if self.start is None:
            return f"bytes */{self.size}"
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"

    @classmethod
    def parse(cls, text: str) -> ContentRange | None:
        """Return the value of a Content-Range header; None where malformed or without a size (`/*`)."""
        match = _CONTENT_RANGE.fullmatch(text.strip())
        if match is None:
            return None
        size = int(match["size"])
        if match["first"] is None:
            return cls(None, 0, size)
        first, last = int(match["first"]), int(match["last"])
        return cls(first, last - first + 1, size) if first <= last < size else None
