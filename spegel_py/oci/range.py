"""HTTP byte ranges as values: requested ones (Range) and sent ones (Content-Range); RFC 9110."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from spegel_py.errors import RangeInvalid

ByteSpan = tuple[int, int]
"""A part of content: the first byte's position, and the number of bytes."""

MAX_BYTES = (1 << 63) - 1
"""Bytes of the longest content. Sizes are signed 64-bit numbers for registries and runtimes."""

MAX_PARTS = 256
"""Parts of one answer: as many as a Range header of 4 KiB names. Each part may cost a request to a
peer."""

_SPEC = re.compile(r"(?P<first>[0-9]+)?-(?P<last>[0-9]+)?")
_CONTENT_RANGE = re.compile(
    r"bytes (?:(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})|\*)/(?P<size>[0-9]{1,19})"
)


def unsatisfiable(size: int) -> RangeInvalid:
    """Return the 416 for content of `size` bytes.

    It is rendered with `Content-Range: bytes */size`.
    """
    return RangeInvalid(
        f"the range lies outside the {size} bytes of the content", detail={"size": size}
    )


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `first` to `last`, both included. Without `last` they end with the content.

    Without `first`, `last` is the number of bytes at the content's end.
    """

    first: int | None
    last: int | None

    def __str__(self) -> str:
        first = "" if self.first is None else self.first
        last = "" if self.last is None else self.last
        return f"bytes={first}-{last}"

    @classmethod
    def parse(cls, text: str) -> ByteRange | None:
        """Return the range in a Range header; None for several ranges or the whole content.

        Raises RangeInvalid.
        """
        found = cls.parse_all(text)
        return found[0] if len(found) == 1 else None

    @classmethod
    def parse_all(cls, text: str) -> tuple[ByteRange, ...]:
        """Return the ranges in a Range header, in order; none for the whole content.

        Overlapping or adjacent ranges become one. Other units are ignored, as the RFC allows. So is
        `bytes=0-`, the whole content: containerd 2.1 probes with it, and pulls in one stream only
        after a plain 200. Raises RangeInvalid for a malformed `bytes` range, as Go's file server
        does.
        """
        unit, equals, specs = text.partition("=")
        if not equals or unit.strip().lower() != "bytes":
            return ()
        given = [spec.strip() for spec in specs.split(",")]
        found = [cls._of(spec, text) for spec in given if spec or len(given) == 1]
        if not found:
            raise RangeInvalid(f"not a byte range: {text[:80]!r}")
        merged = _merged(found)
        return () if EVERYTHING in merged else merged

    @classmethod
    def _of(cls, spec: str, text: str) -> ByteRange:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise RangeInvalid(f"not a byte range: {text[:80]!r}")
        ends = match.group("first", "last")
        first, last = (None if end is None else _number(end) for end in ends)
        if (first is None and last is None) or (
            first is not None and last is not None and last < first
        ):
            raise RangeInvalid(f"not a byte range: {text[:80]!r}")
        return cls(first, last)

    def resolve(self, size: int) -> tuple[int, int]:
        """Return (start, length) in content of `size` bytes, cut to it. Raises RangeInvalid."""
        if self.first is None:
            length = min(self.last or 0, size)
            start = size - length
        else:
            start = self.first
            length = size - start if self.last is None else min(self.last + 1, size) - start
        if length <= 0:
            raise unsatisfiable(size)
        return start, length


EVERYTHING = ByteRange(0, None)
"""The whole content as a range."""


def spans(ranges: Iterable[ByteRange], size: int) -> tuple[ByteSpan, ...]:
    """Return the parts of content of `size` bytes that the ranges select, in order.

    Ranges outside the content are left out, and adjacent ones become one. With more than MAX_PARTS,
    the smallest gaps are sent too, as the RFC allows. Raises RangeInvalid if all ranges lie
    outside.
    """
    found = []
    for each in ranges:
        with suppress(RangeInvalid):
            start, length = each.resolve(size)
            found.append(ByteRange(start, start + length - 1))
    parts = [(one.first or 0, (one.last or 0) + 1) for one in _merged(found)]
    if not parts:
        raise unsatisfiable(size)
    while len(parts) > MAX_PARTS:
        at = min(range(1, len(parts)), key=lambda each: parts[each][0] - parts[each - 1][1])
        parts[at - 1 : at + 1] = [(parts[at - 1][0], parts[at][1])]
    return tuple((start, end - start) for start, end in parts)


def _merged(ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
    """Return the ranges with a start, in order and merged, followed by the longest suffix."""
    found: list[ByteRange] = []
    given = list(ranges)
    with_start = [one for one in given if one.first is not None]
    for each in sorted(with_start, key=lambda one: one.first or 0):
        before = found[-1] if found else None
        if before is None or (before.last is not None and (each.first or 0) > before.last + 1):
            found.append(each)
        elif before.last is not None:
            last = None if each.last is None else max(before.last, each.last)
            found[-1] = ByteRange(before.first, last)
    suffix = max((one.last or 0 for one in given if one.first is None), default=None)
    return tuple(found) if suffix is None else (*found, ByteRange(None, suffix))


def _number(digits: str) -> int:
    """Return a number of bytes, at most MAX_BYTES."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < len(str(MAX_BYTES)) else MAX_BYTES


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes in an answer.

    Without `start` it has none, since the range lay outside the content (416).
    """

    start: int | None
    length: int
    size: int

    def __str__(self) -> str:
        if self.start is None:
            return f"bytes */{self.size}"
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"

    @classmethod
    def parse(cls, text: str) -> ContentRange | None:
        """Return the value of a Content-Range header; None if it is malformed or has no size
        (`/*`).

        A size above MAX_BYTES is malformed too.
        """
        match = _CONTENT_RANGE.fullmatch(text.strip())
        if match is None:
            return None
        size = int(match["size"])
        if size > MAX_BYTES:
            return None
        if match["first"] is None:
            return cls(None, 0, size)
        first, last = int(match["first"]), int(match["last"])
        return cls(first, last - first + 1, size) if first <= last < size else None
