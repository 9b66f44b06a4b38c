"""The manifests here that refer to another one, found by reading each piece of content once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from spegel_py.errors import ContentNotFound, DigestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.listing import MAX_REFERRERS, ReferrerEntry
from spegel_py.oci.manifest import MAX_MANIFEST, referrer
from spegel_py.store.base import Store

CALLS = 16
"""Contents read at the same time, as the walker does."""


class Referrers:
    """Finds the referrers of a manifest in a store.

    The first question reads all small content, and later ones read only new content: 10,000 pieces
    take about two seconds. Only the subject of each is remembered, 200 bytes a piece.

    Args:
        held: returns the keys of all content here that is shared.
    """

    def __init__(self, *, store: Store, held: Callable[[], Collection[str]]) -> None:
        self._store = store
        self._held = held
        self._subjects: dict[str, Digest | None] = {}
        self._reading = asyncio.Lock()

    def __repr__(self) -> str:
        found = sum(subject is not None for subject in self._subjects.values())
        return f"<Referrers {found} in {len(self._subjects)} contents>"

    async def of(self, subject: Digest) -> list[ReferrerEntry]:
        """Return the entries of the manifests here with this subject. Raises StoreUnavailable."""
        async with self._reading:  # two questions must not read the same content
            await self._read_new()
        keys = [key for key, known in self._subjects.items() if known == subject]
        found, size = list[ReferrerEntry](), 0
        for key in sorted(keys)[:MAX_REFERRERS]:
            if (entry := await self._entry(Digest.parse(key))) is not None:
                found.append(entry)
                size += entry.size
            if size > MAX_MANIFEST:  # a list is no longer than that
                break
        return found

    async def _read_new(self) -> None:
        held = frozenset(self._held())
        for gone in self._subjects.keys() - held:
            del self._subjects[gone]
        new = iter([key for key in held - self._subjects.keys() if "/" not in key])

        async def read_some() -> None:
            for key in new:
                with suppress(ContentNotFound, DigestInvalid):  # it went, or it is no digest
                    data = await self._small(Digest.parse(key))
                    found = referrer(data) if data else None
                    self._subjects[key] = found.subject if found else None

        await asyncio.gather(*(read_some() for _ in range(CALLS)))

    async def _entry(self, digest: Digest) -> ReferrerEntry | None:
        data = b""
        with suppress(ContentNotFound):
            data = await self._small(digest)
        if not digest.matches(data) or (found := referrer(data)) is None:
            return None
        return ReferrerEntry(
            digest, len(data), found.media_type, found.artifact_type, found.annotations
        )

    async def _small(self, digest: Digest) -> bytes:
        """Return content that may be a manifest; empty if it is too large for one."""
        async with self._store.open(digest) as content:
            if content.size > MAX_MANIFEST:
                return b""
            return b"".join([piece async for piece in content.read(0, content.size)])
