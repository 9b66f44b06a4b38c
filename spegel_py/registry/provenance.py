"""Whether content may be given away, by where it came from: the name in a request is the asker's choice."""

from __future__ import annotations

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.oci.filters import Filters
from spegel_py.store.base import Origins


class Provenance:
    """Asks `origins` where content came from, and `filters` whether any of that is mirrored."""

    def __init__(self, *, origins: Origins, filters: Filters) -> None:
        self._origins = origins
        self._filters = filters

    def __repr__(self) -> str:
        return f"<Provenance by {self._origins!r} {self._filters!r}>"

    async def check(self, pull: PullRequest, digest: Digest) -> None:
        """Return if the content of this digest may be given to whoever asks for it.

        Raises:
            ManifestUnknown, BlobUnknown: all that it came from is filtered.
            ContentNotFound: nobody knows where it came from, so that it counts as not here.
            StoreUnavailable: it cannot be found out now.
        """
        sources = await self._origins.sources(digest)
        if not sources:
            raise ContentNotFound(f"it is not known where {digest} came from")
        if not self._filters.shares(sources):
            raise pull.kind.unknown(f"{digest} is not mirrored", detail={"filtered": True})
