"""What a pull tells while it runs, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from spegel_py.oci.manifest import Child


@dataclass(frozen=True, slots=True)
class PullPlanned:
    """It is known what there is: the root, every manifest below it and itself, and every blob, each once."""

    root: Child
    manifests: tuple[Child, ...]
    blobs: tuple[Child, ...]


@dataclass(frozen=True, slots=True)
class BlobOpened:
    """A blob's bytes are about to come, from `offset` on; `peer` is the id of the node they come from, if known."""

    blob: Child
    offset: int
    peer: str | None
    is_upstream: bool = False
    """Whether they come from the registry behind the mirror."""


@dataclass(frozen=True, slots=True)
class BytesFetched:
    """`count` more bytes of a blob were written: `offset` are there now."""

    blob: Child
    offset: int
    count: int
    peer: str | None
    is_upstream: bool = False


@dataclass(frozen=True, slots=True)
class BlobInterrupted:
    """A blob broke off with `offset` bytes there; it is tried again."""

    blob: Child
    offset: int
    error: str


@dataclass(frozen=True, slots=True)
class BlobFinished:
    """A blob is there and its digest was verified; `was_here` if nothing of it had to come over the network."""

    blob: Child
    was_here: bool


PullEvent = PullPlanned | BlobOpened | BytesFetched | BlobInterrupted | BlobFinished

OnProgress = Callable[[PullEvent], Awaitable[None] | None]
"""Hears every event of a pull. What it returns is awaited before the next byte of that blob is read, so that it can
hold a body back; what it raises ends the pull."""
