"""Serves content that containerd is still downloading to other nodes.

Blobs are served from their first byte. Until that byte is here, the registry may still refuse the
blob, so other nodes wait. Manifests are served only when complete. Clients of this node are not
served in this way: their runtime is doing the download.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.registry.local_content import LocalMatch
from spegel_py.store.base import Ingest, Ingests

PATIENCE = 20.0
"""Seconds of waiting for the first byte, or for a whole manifest. Clients usually leave before."""


class IngestReader:
    """Finds content that is being written here.

    Args:
        ingests: the open ingests of the store.
        size_of: returns the size that a manifest names, since an ingest may not know it.
        source_of: returns the id of the peer that the content is downloaded from, None if it is
            downloaded from the registry.
        takes_part: returns True for content that this node downloads, until it is in the store.
    """

    def __init__(
        self,
        *,
        ingests: Ingests,
        size_of: Callable[[Digest], int | None],
        source_of: Callable[[Digest], str | None] = lambda _: None,
        takes_part: Callable[[Digest], bool] = lambda _: False,
    ) -> None:
        self._ingests = ingests
        self._takes_part = takes_part
        self._size_of = size_of
        self.source_of = source_of

    def __repr__(self) -> str:
        return f"<IngestReader {self._ingests!r}>"

    def has(self, pull: PullRequest) -> bool:
        """Return True if the content has an open ingest, so that it is not in the store yet."""
        return pull.digest is not None and self._ingests.has_open(pull.digest)

    def is_committing(self, pull: PullRequest) -> bool:
        """Return True if this node's runtime has the content, and its store not yet.

        containerd moves the file first and writes the record then: 11 ms later, or a second on a
        busy disk.
        """
        return pull.digest is not None and self._takes_part(pull.digest) and not self.has(pull)

    @asynccontextmanager
    async def find(self, pull: PullRequest) -> AsyncIterator[tuple[LocalMatch, Ingest]]:
        """Give the content and its ingest, which is open while the block lasts.

        Raises:
            ContentNotFound: nobody writes the content, its size is unknown, or it does not grow.
            StoreUnavailable: the ingest cannot be read.
        """
        if pull.digest is None or pull.head:
            raise ContentNotFound(f"{pull.key} is not something that grows")
        async with self._ingests.open(pull.digest) as ingest:
            size = ingest.total or self._size_of(pull.digest)
            if size is None:
                raise ContentNotFound(f"nobody knows yet how long {pull.digest} will be")
            if pull.kind is Kind.MANIFEST:
                media_type = await _manifest_type(pull.digest, ingest, size)
            else:
                media_type = "application/octet-stream"
                start, _ = pull.range.resolve(size) if pull.range else (0, size)
                await _grown(pull.digest, ingest, start + 1)
            yield LocalMatch(pull.digest, size, media_type), ingest


async def expected_size(ingests: Ingests, digest: Digest) -> int | None:
    """Return the size that this node's runtime expects of content it pulls, None if unknown."""
    try:
        async with ingests.open(digest) as ingest:
            return ingest.total
    except (ContentNotFound, StoreError):
        return None


async def _manifest_type(digest: Digest, ingest: Ingest, size: int) -> str:
    """Wait for the whole manifest, and return its media type."""
    if size > MAX_MANIFEST:
        raise ContentNotFound(f"{digest} is too long for a manifest")
    await _grown(digest, ingest, size)
    data = os.pread(ingest.fd, size, 0)
    media_type = detect(data) if digest.matches(data) else None
    if media_type is None:
        raise ContentNotFound(f"what was written is not the manifest {digest}")
    return media_type


async def _grown(digest: Digest, ingest: Ingest, least: int) -> None:
    """Wait until the ingest has `least` bytes. Raises ContentNotFound if they do not come."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await ingest.wait_beyond(least - 1)
    if ingest.size < least:
        raise ContentNotFound(f"{digest} does not grow")
