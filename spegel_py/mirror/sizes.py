"""How long content is: a peer that says otherwise is refused before a client hears of it, since a wrong length ends a
runtime's pull, or fills its disk.

The node's own runtime says how many bytes it expects. For other clients the manifests that were passed on say it. Such
a manifest may be anybody's, so two that differ say nothing.
"""

from __future__ import annotations

from contextlib import suppress

from spegel_py.errors import ManifestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import children
from spegel_py.tools.bounded import BoundedDict

REMEMBERED = 16_384
"""Contents whose size is remembered: those of the last few hundred images, in about 3 MB."""


class Sizes:
    """Sizes in bytes by digest. Manifests are to be verified before they are learned from."""

    def __init__(self) -> None:
        self._sizes: BoundedDict[Digest, int | None] = BoundedDict(limit=REMEMBERED)

    def __repr__(self) -> str:
        return f"<Sizes of {len(self._sizes)} contents>"

    def of(self, digest: Digest | None) -> int | None:
        """Return the size of content, None if no manifest has named it, or two have named different ones."""
        return self._sizes.get(digest) if digest is not None else None

    def learn(self, manifest: bytes) -> None:
        """Take in what a manifest's bytes say; what is none, or names the same digest twice, says little."""
        with suppress(ManifestInvalid):
            for child in children(manifest):
                is_agreed = self._sizes.get(child.digest, child.size) == child.size
                self._sizes[child.digest] = child.size if is_agreed else None
