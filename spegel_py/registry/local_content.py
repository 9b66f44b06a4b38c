"""This node's own content: found for a pull, and checked for its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.filters import Filters
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.store.base import Descriptor, Origins, Store
from spegel_py.tools.bounded import BoundedDict

if TYPE_CHECKING:
    from spegel_py.registry.image_guard import ImageGuard

log = structlog.get_logger(__name__)

REMEMBERED = 4096
"""Contents whose media type is remembered. So small content is read only once to tell manifests
from blobs."""


@dataclass(frozen=True, slots=True)
class LocalMatch:
    """Content of the right kind that is here; `pulled` is the Unix time of a tag's pull."""

    digest: Digest
    size: int
    media_type: str
    pulled: float | None = None


class Provenance:
    """Decides by its origin whether content may be sent; the name in a request proves nothing.

    Args:
        origins: returns the repositories that content came from.
        filters: exclude repositories.
        guard: tells which content may be given under a repository's name; None for any content.
    """

    def __init__(
        self, *, origins: Origins, filters: Filters, guard: ImageGuard | None = None
    ) -> None:
        self._origins = origins
        self._filters = filters
        self._guard = guard

    def __repr__(self) -> str:
        return f"<Provenance by {self._origins!r} {self._filters!r}>"

    async def check(self, pull: PullRequest, digest: Digest) -> None:
        """Return if the content of this digest may be sent to a client that names the repository.

        Raises:
            ManifestUnknown, BlobUnknown: every repository that it came from is filtered, or it is
                private and did not come from the requested one.
            ContentNotFound: its origin is unknown, so it counts as absent.
            StoreUnavailable: its origin cannot be found out now.
        """
        sources = await self._origins.sources(digest)
        if not sources:
            raise ContentNotFound(f"it is not known where {digest} came from")
        if not self._filters.shares(sources):
            raise pull.kind.unknown(f"{digest} is not mirrored", detail={"filtered": True})
        repository = f"{pull.registry}/{pull.repository}" if pull.registry else None
        if self._guard is not None and not self._guard.may_serve(repository, sources):
            raise pull.kind.unknown(
                f"{digest} is private, and here from another repository", detail={"private": True}
            )


class LocalContent:
    """Finds content in a store: a manifest only as a manifest, other content only as a blob.

    With a `provenance`, content that may not be sent is not found.
    """

    def __init__(self, *, store: Store, provenance: Provenance | None = None) -> None:
        self._store = store
        self._provenance = provenance
        self._types: BoundedDict[Descriptor, str | None] = BoundedDict(limit=REMEMBERED)

    def __repr__(self) -> str:
        return f"<Local of {self._store!r}>"

    async def find(self, pull: PullRequest) -> LocalMatch:
        """Return the content of a pull.

        Raises:
            ContentNotFound: the content is not here.
            StoreUnavailable: the store does not answer.
            ManifestUnknown, BlobUnknown: the digest is here, but of the other kind, so no peer can
                have it as this kind. Also if filters exclude the content.
        """
        tag = None
        if (digest := pull.digest) is None:
            tag = await self._store.resolve(pull.key)
            digest = tag.digest
        descriptor = await self._store.stat(digest)
        if self._provenance is not None:
            await self._provenance.check(pull, digest)
        manifest_type = await self._manifest_type(descriptor)
        if (manifest_type is not None) != (pull.kind is Kind.MANIFEST):
            raise pull.kind.unknown(f"{digest} is not one of the {pull.kind.value}")
        media_type = manifest_type or "application/octet-stream"
        return LocalMatch(digest, descriptor.size, media_type, tag.pulled if tag else None)

    async def _manifest_type(self, descriptor: Descriptor) -> str | None:
        """Return the media type of a manifest; None for any other content."""
        if descriptor.size > MAX_MANIFEST:
            return None
        # The descriptor has the size, since a power cut may truncate a file later.
        if descriptor not in self._types:
            self._types[descriptor] = await self._detect(descriptor)
        return self._types[descriptor]

    async def _detect(self, descriptor: Descriptor) -> str | None:
        """Read small content and return its media type; damaged content counts as absent.

        Otherwise a HEAD for a damaged manifest would return a size with which the runtime's pull
        fails, although the registry has good content.
        """
        async with self._store.open(descriptor.digest) as content:
            data = b"".join([piece async for piece in content.read(0, content.size)])
        if len(data) != descriptor.size:
            raise StoreUnavailable(
                f"{descriptor.digest} has {len(data)} bytes, not {descriptor.size}"
            )
        if not descriptor.digest.matches(data):
            log.warning("content damaged", digest=str(descriptor.digest), size=descriptor.size)
            raise ContentNotFound(f"the copy of {descriptor.digest} here is damaged")
        return detect(data)
