"""The sizes of contents: a peer that reports another size is refused before a client hears of it.

A wrong length ends a runtime's pull, or fills its disk. The node's own runtime knows how many bytes
it expects; for other clients the manifests that were passed on give the size. Such a manifest may
be anybody's, so two manifests that differ count for nothing.
"""

from __future__ import annotations

from contextlib import suppress

from spegel_py.errors import ManifestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import children
from spegel_py.tools.bounded import BoundedDict

MAX_CONTENTS = 16_384
"""Contents whose size is kept: those of the last few hundred images, in about 3 MB."""


class ContentSizes:
    """Sizes in bytes by digest."""

    def __init__(self) -> None:
        self._sizes: BoundedDict[Digest, int | None] = BoundedDict(limit=MAX_CONTENTS)

    def __repr__(self) -> str:
        return f"<ContentSizes of {len(self._sizes)} contents>"

    def of(self, digest: Digest | None) -> int | None:
        """Return the size of content; None if no manifest names it, or two give different sizes."""
        return self._sizes.get(digest) if digest is not None else None

    def record_manifest(self, manifest: bytes) -> None:
        """Record the sizes in a verified manifest; bytes that are no manifest are ignored."""
        with suppress(ManifestInvalid):
            for child in children(manifest):
                is_agreed = self._sizes.get(child.digest, child.size) == child.size
                self._sizes[child.digest] = child.size if is_agreed else None
