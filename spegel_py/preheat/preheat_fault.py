"""The faults of a pre-heat: each is a word for programs and a sentence for people. Pure."""

from __future__ import annotations

from enum import StrEnum

from spegel_py.errors import (
    BlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    SpegelError,
)


class PreheatFault(StrEnum):
    """The kind of a fault."""

    NOT_FOUND = "not-found"
    NO_CREDENTIALS = "no-credentials"
    NO_PLATFORM = "no-platform"
    FILTERED = "filtered"
    NO_ROOM = "no-room"
    TOO_LARGE = "too-large"
    BAD_MANIFEST = "bad-manifest"
    WRONG_BYTES = "wrong-bytes"
    STORE_AWAY = "store-away"
    REGISTRY_BUSY = "registry-busy"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    NO_CRI = "no-cri"
    NO_PIN = "no-pin"
    TAG_MOVED = "tag-moved"
    CONTENT_ONLY = "content-only"
    TIMEOUT = "timeout"
    NO_ANSWER = "no-answer"
    OFF = "off"
    DRAINING = "draining"
    FULL = "full"
    INTERNAL = "internal"


REFUSALS = frozenset(
    {
        PreheatFault.FILTERED,
        PreheatFault.NO_ROOM,
        PreheatFault.TOO_LARGE,
        PreheatFault.NO_PLATFORM,
        PreheatFault.NO_CRI,
        PreheatFault.NO_PIN,
    }
)
"""Faults by which a node refuses an image, before a byte was fetched."""

TEMPORARY = frozenset(
    {
        PreheatFault.REGISTRY_BUSY,
        PreheatFault.UNREACHABLE,
        PreheatFault.STORE_AWAY,
        PreheatFault.WRONG_BYTES,
    }
)
"""Faults that may be over after a while. The image is then tried again."""


class PreheatFailed(SpegelError):
    """An image cannot be fetched; the text is a sentence, and `fault` its kind."""

    def __init__(self, fault: PreheatFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault

    @property
    def is_temporary(self) -> bool:
        """Return True if a later try may succeed."""
        return self.fault in TEMPORARY

    @property
    def is_refusal(self) -> bool:
        """Return True if the node refused the image."""
        return self.fault in REFUSALS


def fault_of(error: SpegelError) -> PreheatFailed:
    """Return the fault that an error of a registry, a mirror or a file shows."""
    if isinstance(error, PreheatFailed):
        return error
    return PreheatFailed(_kind(error), str(error))


def _kind(error: SpegelError) -> PreheatFault:
    match error:
        case ManifestUnknown() | BlobUnknown():
            return PreheatFault.NOT_FOUND
        case PeerRefused(status=401 | 403):
            return PreheatFault.NO_CREDENTIALS
        case PeerRefused(status=status) if status == 429 or status >= 500:
            return PreheatFault.REGISTRY_BUSY
        case PeerRefused():
            return PreheatFault.REFUSED
        case PeerUnreachable() | PeerStalled():
            return PreheatFault.UNREACHABLE
        case ManifestInvalid():
            return PreheatFault.BAD_MANIFEST
        case _:
            return PreheatFault.INTERNAL
