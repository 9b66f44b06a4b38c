"""The decisions of pulling one blob: how to use an answer, and whether to retry. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from spegel_py.errors import DigestMismatch, PeerRefused, SpegelError
from spegel_py.oci.range import ByteRange, ContentRange
from spegel_py.tools.backoff import doubled

FRUITLESS = 4
"""Attempts in a row without progress before a blob is given up: as many as containerd makes."""

MISMATCHES = 2
"""Times that a whole blob may be wrong. The first may contain a damaged part of an earlier pull."""

ATTEMPTS = 100
"""Attempts for one blob in all, even with progress: an end for a mirror that sends very little."""

PAUSE_FIRST, PAUSE_LAST = 0.1, 2.0
"""Seconds before an attempt after one without progress: the first pause, doubled up to the last.

After progress there is no pause.
"""


class BodyUse(Enum):
    """The use of an answer to a request for the rest of a blob."""

    APPEND = "the bytes go on where ours end"
    RESTART = "the bytes are the blob from its beginning"


def range_after(offset: int) -> ByteRange | None:
    """Return the range to request after `offset` bytes: to the end, as containerd does; None for
    the whole blob.
    """
    return ByteRange(offset, None) if offset else None


def judge_answer(
    *, status: int, content_range: str | None, length: int | None, offset: int, size: int
) -> BodyUse | str:
    """Return the use of an answer, or the reason why it is unusable.

    Args:
        status: Its status.
        content_range: Its Content-Range header, if any.
        length: Its Content-Length in bytes; None without one.
        offset: Bytes of the blob that are here already.
        size: Bytes of the whole blob.
    """
    # Case 1: the whole blob comes. Bytes that are here already are discarded.
    if status == 200:
        if length is not None and length != size:
            return f"it has {length} bytes, not the {size} that the manifest says"
        return BodyUse.RESTART if offset else BodyUse.APPEND
    # Case 2: no content comes.
    if status != 206:
        return f"status {status}"
    # Case 3: a part comes, but without a position, of another blob, or not the requested part.
    part = ContentRange.parse(content_range or "")
    if part is None or part.start is None:
        return "status 206 without a usable Content-Range"
    if part.size != size:
        return f"it has {part.size} bytes, not the {size} that the manifest says"
    if part.start != offset or (length is not None and length != part.length):
        return f"{length} bytes from byte {part.start} on, not those from byte {offset} on"
    # Case 4: exactly the rest comes.
    return BodyUse.APPEND


@dataclass(frozen=True, slots=True)
class RetryState:
    """The attempts for one blob so far. They decide whether and when to retry."""

    reached: int = 0
    attempts: int = 0
    fruitless: int = 0
    mismatches: int = 0
    is_final: bool = False

    def after(self, error: SpegelError, offset: int) -> RetryState:
        """Return the state after an attempt that failed with `offset` bytes here."""
        if _is_final(error):
            return replace(self, is_final=True)
        if isinstance(error, DigestMismatch):
            return replace(
                self, reached=0, attempts=self.attempts + 1, mismatches=self.mismatches + 1
            )
        fruitless = 0 if offset > self.reached else self.fruitless + 1
        return replace(
            self, reached=max(offset, self.reached), attempts=self.attempts + 1, fruitless=fruitless
        )

    @property
    def is_over(self) -> bool:
        """Whether the blob is given up."""
        return (
            self.is_final
            or self.fruitless >= FRUITLESS
            or self.mismatches >= MISMATCHES
            or self.attempts >= ATTEMPTS
        )

    @property
    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        if not self.fruitless:
            return 0.0
        return doubled(PAUSE_FIRST, self.fruitless - 1, most=PAUSE_LAST)


def _is_final(error: SpegelError) -> bool:
    """Return True for an answer that would repeat: the mirror understood the request and refuses
    it.
    """
    return (
        isinstance(error, PeerRefused)
        and 400 <= error.status < 500
        and error.status not in (408, 416, 429)
    )
