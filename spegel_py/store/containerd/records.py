"""What the records of one of containerd's namespaces say of its blobs, remembered.

containerd keeps the blobs of all its namespaces in one folder. Whose a file there is, and where its
content came from, is written in each namespace's records alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.client import BlobRecord, Client

CALLS = 16
"""Calls of one batch that are under way at the same time; more only queue up in the daemon."""


class Records:
    """Knows which blobs the client's namespace holds, and the repositories that containerd pulled each from.

    A blob that is not known yet is asked for, once. Before the daemon has answered anything, a blob
    counts as held: a node serves what is on its disk while containerd starts.
    """

    def __init__(self, *, client: Client) -> None:
        self._client = client
        self._sources: dict[Digest, frozenset[str]] = {}
        self._has_heard = False

    def __repr__(self) -> str:
        return f"<Records of {self._client.namespace}, blobs={len(self._sources)}>"

    def __contains__(self, digest: object) -> bool:
        return digest in self._sources

    def sources(self, digest: Digest) -> frozenset[str]:
        """Return the repositories that a blob came from, as far as known: `registry/repository`."""
        return self._sources.get(digest, frozenset())

    async def check(self, digest: Digest) -> None:
        """Raise ContentNotFound where the namespace does not hold the blob, or StoreUnavailable."""
        if digest in self._sources:
            return
        try:
            is_held = await self.look([digest])
        except StoreUnavailable:
            if self._has_heard:
                raise
        else:
            if not is_held:
                raise ContentNotFound(
                    f"no content {digest} in the namespace {self._client.namespace}"
                )

    async def list(self) -> frozenset[Digest]:
        """Ask for all records, which replaces what was known, and return the digests."""
        found = await self._client.content()
        same: dict[frozenset[str], frozenset[str]] = {}  # thousands of blobs have the same sources
        self._sources = {
            digest: same.setdefault(record.sources, record.sources)
            for digest, record in found.items()
        }
        self._has_heard = True
        return frozenset(self._sources)

    async def look(self, digests: Collection[Digest]) -> frozenset[Digest]:
        """Ask for the records of these, known or not, and return the digests that the namespace holds."""
        slots = asyncio.Semaphore(CALLS)

        async def ask(digest: Digest) -> BlobRecord | None:
            async with slots:
                try:
                    return await self._client.info(digest)
                except ContentNotFound:
                    return None

        asked = list(digests)
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        for digest, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BlobRecord):
                self._sources[digest] = answer.sources
            else:
                self.drop(digest)
        self._has_heard = self._has_heard or bool(asked)
        return frozenset(digest for digest in asked if digest in self._sources)

    def drop(self, digest: Digest) -> None:
        """Forget a blob that may be gone."""
        self._sources.pop(digest, None)
