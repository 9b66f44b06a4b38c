"""The ports of the store: reading content (Store) and following what comes and goes (Watcher)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from spegel_py.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One piece of content: its digest and its size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Tag:
    """What a tag points at here, and when it was last pulled, in Unix time: it may have moved since."""

    digest: Digest
    pulled: float


class Content(Protocol):
    """An opened piece of content: it stays readable to its end even if it is deleted meanwhile.

    `fd` is a read-only descriptor of a regular file holding exactly the content, for the kernel to send from,
    or None where the bytes come only through `read` (a content store that is not mounted, memory). Use pread,
    not read, on it: ranges of one content may be sent at the same time.
    """

    @property
    def size(self) -> int: ...

    @property
    def fd(self) -> int | None: ...

    def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, start + length) in pieces of at most 1 MiB.

        Raises StoreUnavailable when the source breaks or ends early.
        """
        ...


class Ingest(Protocol):
    """Content that is being written here, from its first byte on; nothing that is there changes any more.

    Its bytes are read from `fd` with pread, or sent from there by the kernel; it stays readable when its writer is
    done, or has given up. It may be what a writer left behind long ago, which nobody can see: a wait needs a deadline.
    """

    @property
    def fd(self) -> int: ...

    @property
    def size(self) -> int:
        """How many bytes are there now."""
        ...

    @property
    def total(self) -> int | None:
        """How many there will be; None where the writer does not say."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there: they need not be right yet."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it is known that nobody writes any more."""
        ...

    async def wait_beyond(self, beyond: int) -> None:
        """Return once there are more than `beyond` bytes, or nobody writes any more."""
        ...

    async def wait_over(self) -> None:
        """Return once nobody writes any more."""
        ...


class Ingests(Protocol):
    """What is being written here, and is not content yet."""

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        """Open what becomes this content; entering raises ContentNotFound where nothing does."""
        ...

    def has_open(self, digest: Digest) -> bool:
        """Say whether somebody here has it open while it grows: then it need not be looked for."""
        ...


class Store(Protocol):
    """What this node holds. Every method raises StoreUnavailable when the thing behind it is away."""

    async def resolve(self, name: str) -> Tag:
        """Return what the tag `registry/repository:tag` points at, or raise ContentNotFound."""
        ...

    async def stat(self, digest: Digest) -> Descriptor:
        """Return the content's descriptor, or raise ContentNotFound."""
        ...

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]:
        """Open the content for reading; entering raises ContentNotFound where it is not here (any more)."""
        ...


class Origins(Protocol):
    """Where what this node holds came from."""

    async def sources(self, digest: Digest) -> frozenset[str]:
        """Return the repositories (`registry/repository`) that content came from; none where unknown.

        Raises StoreUnavailable.
        """
        ...


class Change(Enum):
    """What happened to a key."""

    ADDED = "added"
    REMOVED = "removed"
    RENEWED = "renewed"  # a tag was pulled again, whether or not it moved


@dataclass(frozen=True, slots=True)
class ContentEvent:
    """One key came or went. The key is a digest's text or a tag's full name, as it is advertised.

    `pulled` is of a tag that was added or renewed: when, in Unix time.
    """

    change: Change
    key: str
    pulled: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that is held now: it replaces all that was known before it. `pulled` is of its tags."""

    keys: frozenset[str]
    pulled: Mapping[str, float] = field(default_factory=dict, compare=False)


class Watcher(Protocol):
    """Follows what a store holds."""

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        """Yield an Inventory first, then changes as they happen, and a new Inventory after every gap.

        It never ends and never raises for a source that is away: it waits for it with back-off, says so once
        in the log, and lists again when it is back.
        """
        ...
