"""The ports of the store: reading content (Store), keeping it (Replicas) and following its changes
(Watcher).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Protocol

from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import replica_key


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The digest of a piece of content, and its size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Tag:
    """The digest that a tag points at here, and the Unix time of the tag's last pull.

    The tag may have moved at the registry since.
    """

    digest: Digest
    pulled: float


class Content(Protocol):
    """An opened piece of content. It stays readable to its end even if it is deleted meanwhile.

    `fd` is a read-only descriptor of a regular file that holds exactly the content. The kernel
    sends from it. It is None where only `read` gives the bytes: a content store that is not
    mounted, or memory. Read from it with pread, because several ranges of one content may be sent
    at the same time.
    """

    @property
    def size(self) -> int: ...

    @property
    def fd(self) -> int | None: ...

    def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, start + length) in pieces of at most 1 MiB.

        Raises StoreUnavailable if the source breaks or ends early.
        """
        ...


class Ingest(Protocol):
    """Content that is being written here. Bytes that are there do not change any more.

    Read its bytes from `fd` with pread, or let the kernel send them from there. It stays readable
    after its writer has finished or given up. A dead writer cannot be seen, so the file may be an
    old leftover: every wait needs a deadline.
    """

    @property
    def fd(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    @property
    def total(self) -> int | None:
        """Bytes of the whole content; None if the writer does not say."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there. They are not verified yet."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the writer is known to have stopped."""
        ...

    async def wait_beyond(self, beyond: int) -> None:
        """Return once there are more than `beyond` bytes, or the writer has stopped."""
        ...

    async def wait_over(self) -> None:
        """Return once the writer has stopped."""
        ...


class Ingests(Protocol):
    """The content that is being written here."""

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        """Open the ingest of this content. Entering raises ContentNotFound if there is none."""
        ...

    def has_open(self, digest: Digest) -> bool:
        """Return True if this process has the ingest open and it still grows."""
        ...


class Store(Protocol):
    """The content that this node holds.

    Every method raises StoreUnavailable while the daemon or disk behind the store is away.
    """

    async def resolve(self, name: str) -> Tag:
        """Return the tag `registry/repository:tag`, or raise ContentNotFound."""
        ...

    async def stat(self, digest: Digest) -> Descriptor:
        """Return the content's descriptor, or raise ContentNotFound."""
        ...

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]:
        """Open the content for reading. Entering raises ContentNotFound if it is not here."""
        ...


class Origins(Protocol):
    """The repositories from which this node's content was pulled."""

    async def sources(self, digest: Digest) -> frozenset[str]:
        """Return the repositories (`registry/repository`) of a piece of content; none if they are
        unknown.

        Raises StoreUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformImage:
    """One platform's image: its manifest, the content below it, and the indexes above it.

    Args:
        manifest: the digest of the platform's manifest, which identifies the image.
        root: the descriptor by which the image is pulled: of an index, or of the manifest itself.
        blobs: all content, root and manifest included.
    """

    manifest: Digest
    root: Child
    blobs: frozenset[Descriptor]

    @property
    def size(self) -> int:
        """The bytes of all content."""
        return sum(blob.size for blob in self.blobs)


class ReplicaReason(StrEnum):
    """The purpose of a replica."""

    FLOOR = "floor"
    HEAT = "heat"
    EVACUATION = "evacuation"
    PREHEAT = "preheat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """An image that this node keeps though its runtime may remove it.

    Args:
        names: the tags (`registry/repository:tag`) that point at the image's root, with the Unix
            times of their pulls; and names by digest (`registry/repository@digest`).
        used: the Unix time at which the runtime was last seen to have the image.
        expires: the Unix time from which the store may delete the image, unless it is held again.
        is_unpacked: True if the runtime's snapshots of it are kept too. Only `unpack` makes it so.
    """

    image: PlatformImage
    names: Mapping[str, float]
    reason: ReplicaReason
    used: float
    expires: float
    is_unpacked: bool = False

    @property
    def key(self) -> str:
        """The key under which the replica is advertised."""
        return replica_key(self.image.manifest)


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image that the runtime has. The name is a tag, or `repository@digest`.

    `pulled` is the Unix time of its last pull.
    """

    name: str
    root: Child
    pulled: float


class ContentWriter(Protocol):
    """One piece of content on its way into the store."""

    @property
    def is_here(self) -> bool:
        """Whether the store had the whole content already, so that nothing is to be written."""
        ...

    @property
    def offset(self) -> int:
        """Bytes that are here, those of an earlier attempt included: where `write` goes on."""
        ...

    async def write(self, data: bytes) -> None:
        """Append bytes. Raises StoreFull, StoreUnavailable; the bytes before stay."""
        ...

    async def restart(self) -> None:
        """Discard all bytes."""
        ...

    async def commit(self) -> None:
        """Put the content into the store.

        Raises DigestMismatch for another length or digest, and discards all bytes then. Raises
        StoreFull, StoreUnavailable.
        """
        ...


class ImageWriter(Protocol):
    """An image on its way into the store. What is written stays at least until it is closed."""

    def open(
        self, blob: Child, *, children: Sequence[Child] = ()
    ) -> AbstractAsyncContextManager[ContentWriter]:
        """Open one piece of the image for writing. Entering raises StoreFull, StoreUnavailable.

        Args:
            children: the content below a manifest, which is here already. Children are written
                before their parents.
        """
        ...


class Replicas(Protocol):
    """The images that this node keeps, whatever its runtime removes.

    The store itself remembers them, so they outlive a restart of this process. Their content, their
    tags and one key for each replica belong to the watcher's inventory.
    """

    def held(self) -> Mapping[Digest, Replica]:
        """Return the replicas by their manifests' digests, as far as they are known by now."""
        ...

    async def load(self) -> None:
        """Read the replicas from the store. Unfinished ones are removed.

        Raises StoreUnavailable.
        """
        ...

    async def pulled(self) -> list[PulledImage]:
        """Return the images that the runtime has, those with a replica too.

        Raises StoreUnavailable.
        """
        ...

    def writing(
        self, image: PlatformImage, *, sources: Collection[str] = (), is_shared: bool = True
    ) -> AbstractAsyncContextManager[ImageWriter]:
        """Open an image for writing, whether a part of it is here or nothing.

        At the end the store may collect what was written, unless the image is held by then. If this
        process ends before, another one goes on with the bytes that are here. Raises
        StoreUnavailable.

        Args:
            sources: the repositories (`registry/repository`) that the image comes from.
            is_shared: True if Ingests may find the unfinished content. In the background that would
                let a runtime's pull follow slow bytes.
        """
        ...

    async def hold(self, replica: Replica) -> None:
        """Keep an image that is here completely, in place of an earlier replica of it.

        Tags that the store cannot remember are left out. An unpacked image is unpacked no longer,
        unless `replica` says that it is. Raises ContentNotFound if a part is missing,
        StoreUnavailable. Nothing changes then.
        """
        ...

    async def unpack(self, manifest: Digest) -> None:
        """Unpack an image that is held, so that the runtime's pull of it has nothing to unpack.

        It stays unpacked until it is released. Raises UnpackUnsupported, StoreFull and
        StoreUnavailable, ManifestInvalid for content that cannot be unpacked, and ContentNotFound
        for an image that is not held.
        """
        ...

    async def release(self, manifest: Digest) -> int:
        """Stop keeping an image; return the bytes that this freed.

        Content of other images stays. An unknown image is no error. Raises StoreUnavailable.
        """
        ...


class Change(Enum):
    """A change of one key."""

    ADDED = "added"
    REMOVED = "removed"
    RENEWED = "renewed"  # a tag was pulled again, whether or not it moved


@dataclass(frozen=True, slots=True)
class ContentEvent:
    """One key was added, removed or renewed.

    The key is a digest's text, a tag's full name or a replica's key, as it is advertised. `pulled`
    is the Unix time of the tag's pull, for a tag that was added or renewed.
    """

    change: Change
    key: str
    pulled: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All keys that are held now. It replaces all earlier knowledge.

    `pulled` maps its tags to the Unix times of their pulls.
    """

    keys: frozenset[str]
    pulled: Mapping[str, float] = field(default_factory=dict, compare=False)


class Watcher(Protocol):
    """Follows the content of a store."""

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        """Yield an Inventory first, then changes as they happen, and a new Inventory after every
        gap.

        The iterator never ends. If the source is away it logs that once, retries with back-off, and
        lists again when the source is back.
        """
        ...
