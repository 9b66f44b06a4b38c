"""What this node itself can answer a pull with."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.registry.provenance import Provenance
from spegel_py.store.base import Descriptor, Store
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

REMEMBERED = 4096
"""Contents whose media type is remembered, so that small ones are read once to tell manifests from blobs."""


@dataclass(frozen=True, slots=True)
class Found:
    """Content of the right kind that is here; of a tag, when it was pulled, in Unix time."""

    digest: Digest
    size: int
    media_type: str
    pulled: float | None = None


class Local:
    """Finds content in a store. A manifest is found as a manifest only, any other content as a blob only.

    Where there is a `provenance`, content that it keeps here is not found.
    """

    def __init__(self, *, store: Store, provenance: Provenance | None = None) -> None:
        self._store = store
        self._provenance = provenance
        self._types: BoundedDict[Descriptor, str | None] = BoundedDict(limit=REMEMBERED)

    def __repr__(self) -> str:
        return f"<Local of {self._store!r}>"

    async def find(self, pull: PullRequest) -> Found:
        """Return what is asked for. Raises ContentNotFound and StoreUnavailable.

        Raises ManifestUnknown or BlobUnknown where the digest is here but of the other kind: then no peer can
        have it as what was asked for. Raises them too where filters keep it here.
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
        return Found(digest, descriptor.size, media_type, tag.pulled if tag else None)

    async def _manifest_type(self, descriptor: Descriptor) -> str | None:
        """Return the media type of a manifest; None for any other content."""
        if descriptor.size > MAX_MANIFEST:
            return None
        if (
            descriptor not in self._types
        ):  # with its size: a file may be cut off later, by a power cut
            self._types[descriptor] = await self._detect(descriptor)
        return self._types[descriptor]

    async def _detect(self, descriptor: Descriptor) -> str | None:
        """Read small content and return its media type; what is damaged counts as not here.

        A HEAD for a damaged manifest would tell a runtime a size that fails its pull, though upstream is well.
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
