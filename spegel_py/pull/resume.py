"""What to do with an answer and after a failure: the decisions of pulling one blob. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from spegel_py.errors import DigestMismatch, PeerRefused, SpegelError
from spegel_py.oci.range import ByteRange, ContentRange
from spegel_py.tools.backoff import doubled

FRUITLESS = 4
"""Attempts in a row that may bring nothing before a blob is given up: as many as containerd makes."""

MISMATCHES = 2
"""Times that a whole blob may prove wrong: the second one did not come from a damaged part of an earlier pull."""

ATTEMPTS = 100
"""Attempts for one blob in all, even while each brings something: an end for a mirror that drips."""

PAUSE_FIRST, PAUSE_LAST = 0.1, 2.0
"""Seconds before the second attempt without progress, doubled up to the last; after progress there is no pause."""


class BodyUse(Enum):
    """What an answer to a request for the rest of a blob allows."""

    APPEND = "the bytes go on where ours end"
    RESTART = "the bytes are the blob from its beginning"


def wanted(offset: int) -> ByteRange | None:
    """Return the range to ask for with `offset` bytes at hand: to the end, as containerd does; None for the whole."""
    return ByteRange(offset, None) if offset else None


def judge(
    *, status: int, content_range: str | None, length: int | None, offset: int, size: int
) -> BodyUse | str:
    """Return what to do with the answer for a blob of `size` bytes of which `offset` are at hand.

    A text is why the answer is no use: nothing of it may be written. `length` is its Content-Length in bytes, None
    where it gives none.
    """
    if status == 200:
        if length is not None and length != size:
            return f"it has {length} bytes, not the {size} that the manifest says"
        return BodyUse.RESTART if offset else BodyUse.APPEND
    if status != 206:
        return f"status {status}"
    part = ContentRange.parse(content_range or "")
    if part is None or part.start is None:
        return "status 206 without a usable Content-Range"
    if part.size != size:
        return f"it has {part.size} bytes, not the {size} that the manifest says"
    if part.start != offset or (length is not None and length != part.length):
        return f"{length} bytes from byte {part.start} on, where those from byte {offset} on were asked for"
    return BodyUse.APPEND


@dataclass(frozen=True, slots=True)
class RetryState:
    """How often a blob was tried so far, and how far it came: whether to go on, and after which pause."""

    reached: int = 0
    attempts: int = 0
    fruitless: int = 0
    mismatches: int = 0
    is_final: bool = False

    def after(self, error: SpegelError, offset: int) -> RetryState:
        """Return the patience left after an attempt that failed with `offset` bytes at hand."""
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
        """Whether the blob is to be given up."""
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
    """Say whether asking again cannot help: the mirror understood, and refuses what it will refuse again."""
    return (
        isinstance(error, PeerRefused)
        and 400 <= error.status < 500
        and error.status not in (408, 416, 429)
    )
