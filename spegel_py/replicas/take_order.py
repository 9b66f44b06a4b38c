"""An image that this node is to take from its peers, the progress, and the reasons of failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from spegel_py.errors import (
    ConfigError,
    ContentNotFound,
    DigestMismatch,
    ManifestInvalid,
    OCIError,
    PeerRefused,
    SpegelError,
    StoreFull,
    StoreUnavailable,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.store.base import PlatformImage, Replica, ReplicaReason

if TYPE_CHECKING:
    from spegel_py.pull.plan import Platform

MAX_IMAGE = 10 * 1024**3
"""Bytes of the largest image that is taken."""


class TakeFault(StrEnum):
    """The reason why an image could not be taken."""

    NO_ROOM = "no-room"
    TOO_LARGE = "too-large"
    NOT_FOUND = "not-found"
    WRONG_BYTES = "wrong-bytes"
    STORE_AWAY = "store-away"
    BAD_MANIFEST = "bad-manifest"
    NO_PLATFORM = "no-platform"
    NO_CREDENTIALS = "no-credentials"
    UNREACHABLE = "unreachable"

    @classmethod
    def of(cls, error: SpegelError) -> TakeFault:
        """Return the fault that an error stands for."""
        match error:
            case StoreFull():
                return cls.NO_ROOM
            case StoreUnavailable():
                return cls.STORE_AWAY
            case DigestMismatch():
                return cls.WRONG_BYTES
            case PeerRefused(status=401 | 403):
                return cls.NO_CREDENTIALS
            case ManifestInvalid():
                return cls.BAD_MANIFEST
            case OCIError() | ContentNotFound():
                return cls.NOT_FOUND
            case ConfigError():
                return cls.NO_PLATFORM
        return cls.UNREACHABLE


class TakeFailed(SpegelError):
    """An image could not be taken; `why` is the reason, and nothing of it is kept."""

    def __init__(self, message: str, *, why: TakeFault) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOrder:
    """An image to take.

    Args:
        reference: the image's registry and repository, with the digest of its index or manifest, or
            with a tag, which is then resolved.
        reason: the purpose of the replica.
        expires: the Unix time until which the store keeps the replica.
        manifest: the digest of the platform's manifest, if it is known; else `platform` chooses it.
        platform: the platform; None for this machine's.
        names: the tags to remember, with the Unix times of their pulls.
        used: the Unix time at which a runtime last had the image; None for now.
        upstream: the URL of a registry for content that no peer gives; None to ask peers alone.
        rate: bytes per second for this image, besides the limit of the node; 0 for no such limit.
        parallel: blobs that are fetched at the same time.
        max_size: bytes of the image at most.
        is_unpacked: True if an earlier replica of it is unpacked and shall stay so.
        footprint: bytes of the disk that the image needs for each of its own.
    """

    reference: Reference
    reason: ReplicaReason
    expires: float
    manifest: Digest | None = None
    platform: Platform | None = None
    names: Mapping[str, float] = field(default_factory=dict)
    used: float | None = None
    upstream: str | None = None
    rate: int = 0
    parallel: int = 1
    max_size: int = MAX_IMAGE
    is_unpacked: bool = False
    footprint: int = 1

    @property
    def is_background(self) -> bool:
        """True unless a person wants the image soon: then it is fetched as a runtime's pull is."""
        return self.reason is not ReplicaReason.PREHEAT or self.rate > 0


@dataclass(slots=True, eq=False)
class TakeProgress:
    """The state of an image that is being taken; it changes as bytes come.

    Args:
        began: monotonic time at which it began.
        image: the image's content, once its manifests are known.
        offsets: bytes that are here of each piece of content.
        received: bytes that came over the network.
        upstream: bytes of `received` that came from the registry.
        is_admitted: True once there was room for the image.
    """

    order: TakeOrder
    began: float = 0.0
    image: PlatformImage | None = None
    offsets: dict[Digest, int] = field(default_factory=dict)
    received: int = 0
    upstream: int = 0
    is_admitted: bool = False

    @property
    def done(self) -> int:
        """Bytes of the image that are here."""
        return sum(self.offsets.values())

    @property
    def total(self) -> int | None:
        """Bytes of the image; None until its manifests are known."""
        return self.image.size if self.image else None

    def count(self, count: int, *, is_upstream: bool) -> None:
        """Add bytes that came over the network."""
        self.received += count
        self.upstream += count if is_upstream else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeReport:
    """The result of a take: the replica, the bytes that came, and the seconds it took."""

    replica: Replica
    received: int
    upstream: int
    seconds: float
