"""What this node's runtime is fetching, as other nodes are answered with it: a blob from its first byte on, which they
may have to wait for, since until then upstream may refuse it; a manifest once it is whole. Clients of this node are
never answered so: their runtime is who fetches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.registry.local import Found
from spegel_py.store.base import Ingest, Ingests

PATIENCE = 20.0
"""Seconds for which the first byte, or a whole manifest, is waited for: who asks leaves before, as a rule."""


class Underway:
    """Finds what is being written here. `size_of` knows the sizes that manifests named: a writer may say none.

    `source_of` gives the id of the peer that something is taken from, if it is from one.
    """

    def __init__(
        self,
        *,
        ingests: Ingests,
        size_of: Callable[[Digest], int | None],
        source_of: Callable[[Digest], str | None] = lambda _: None,
    ) -> None:
        self._ingests = ingests
        self._size_of = size_of
        self.source_of = source_of

    def __repr__(self) -> str:
        return f"<Underway {self._ingests!r}>"

    def has(self, pull: PullRequest) -> bool:
        """Say whether what is asked for is known to grow here, so that it is not in the store yet."""
        return pull.digest is not None and self._ingests.has_open(pull.digest)

    @asynccontextmanager
    async def find(self, pull: PullRequest) -> AsyncIterator[tuple[Found, Ingest]]:
        """Give what is asked for, opened while the block lasts.

        Raises ContentNotFound where nobody writes it, or its size is not known, or it does not grow; StoreUnavailable.
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
            yield Found(pull.digest, size, media_type), ingest


async def expected_size(ingests: Ingests, digest: Digest) -> int | None:
    """Return how many bytes this node's runtime expects of content that it pulls; None where it does not say it."""
    try:
        async with ingests.open(digest) as ingest:
            return ingest.total
    except (ContentNotFound, StoreError):
        return None


async def _manifest_type(digest: Digest, ingest: Ingest, size: int) -> str:
    """Wait for the whole manifest and return its media type."""
    if size > MAX_MANIFEST:
        raise ContentNotFound(f"{digest} is too long for a manifest")
    await _grown(digest, ingest, size)
    data = os.pread(ingest.fd, size, 0)
    media_type = detect(data) if digest.matches(data) else None
    if media_type is None:
        raise ContentNotFound(f"what was written is not the manifest {digest}")
    return media_type


async def _grown(digest: Digest, ingest: Ingest, least: int) -> None:
    """Return once so many bytes are there. Raises ContentNotFound where they do not come."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await ingest.wait_beyond(least - 1)
    if ingest.size < least:
        raise ContentNotFound(f"{digest} does not grow")
