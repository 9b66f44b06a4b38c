"""The events of a running pull, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from spegel_py.oci.manifest import Child


@dataclass(frozen=True, slots=True)
class PullPlanned:
    """The content of the image is known: all its manifests, `root` included, and each blob once."""

    root: Child
    manifests: tuple[Child, ...]
    blobs: tuple[Child, ...]


@dataclass(frozen=True, slots=True)
class BlobOpened:
    """A blob's bytes are about to arrive, from `offset` on. `peer` is the sender's id, if known."""

    blob: Child
    offset: int
    peer: str | None
    is_upstream: bool = False
    """Whether the registry behind the mirror sends them."""


@dataclass(frozen=True, slots=True)
class BytesFetched:
    """`count` more bytes of a blob were written, so it has `offset` bytes now."""

    blob: Child
    offset: int
    count: int
    peer: str | None
    is_upstream: bool = False


@dataclass(frozen=True, slots=True)
class BlobInterrupted:
    """A blob's transfer broke at `offset` bytes, and will be retried."""

    blob: Child
    offset: int
    error: str


@dataclass(frozen=True, slots=True)
class BlobFinished:
    """A blob is complete and verified. `was_here` means that no byte came over the network."""

    blob: Child
    was_here: bool


PullEvent = PullPlanned | BlobOpened | BytesFetched | BlobInterrupted | BlobFinished

OnProgress = Callable[[PullEvent], Awaitable[None] | None]
"""Called with every event of a pull.

An awaitable result is awaited before the blob's next byte is read, so it can delay the body. An
exception ends the pull.
"""
