"""From an image to all its content: manifests are read through the store, what is missing is passed by.

An image pulled for one platform lacks the manifests of the others, and one whose layers were discarded after
unpacking lacks those: only what is really there is listed. containerd's gc labels would name the children too,
but reading 1,000 manifests takes less than a second and is right for content that nobody labelled.

Whether content is a manifest is told by its bytes. The media type in an image's record, or in an
index, is what somebody wrote there: one odd record would otherwise hide the content of every image
with the same target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import structlog

from spegel_py.errors import ContentNotFound, ManifestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import INDEXES, MANIFESTS, MAX_MANIFEST, Child, children, detect
from spegel_py.store.base import Content

log = structlog.get_logger(__name__)

CALLS = 16
"""Manifests read at the same time; more only queue up in the daemon or at the disk."""

Open = Callable[[Digest], AbstractAsyncContextManager[Content]]
"""Opens content by its digest, as Store.open does."""

Expect = Callable[[Child], None]
"""Is told of each child that a manifest names."""


class _Read(NamedTuple):
    """One piece of content that was read: its children, none if it is no manifest."""

    children: tuple[Child, ...] = ()
    is_index: bool = False


class Walker:
    """Lists what images are made of; what a manifest says is remembered, for it cannot change."""

    def __init__(self, *, open: Open, expect: Expect = lambda child: None) -> None:  # noqa: A002 - the port's word
        self._open = open
        self._expect = expect
        self._known: dict[Digest, _Read] = {}
        self._slots = asyncio.Semaphore(CALLS)

    def __repr__(self) -> str:
        return f"<Walker manifests={len(self._known)}>"

    async def reachable(
        self, root: Child, held: frozenset[Digest] | None = None
    ) -> frozenset[Digest]:
        """Return the digests of an image's content, missing ones too; manifests that are missing end their branch.

        Give `held`, the digests of everything that is here, to save looking for manifests that are not.
        """
        open_cached_or_thread = {root.digest}
        level = [root]
        while level:
            parents = [one for one in level if held is None or one.digest in held]
            read = await asyncio.gather(*map(self._read, parents))
            below = [(child, one.is_index) for one in read for child in one.children]
            # a config or a layer is not read, unless its own descriptor calls it a manifest
            level = [
                child
                for child, is_of_index in below
                if child.digest not in open_cached_or_thread
                and (is_of_index or child.media_type in MANIFESTS)
            ]
            open_cached_or_thread.update(child.digest for child, _ in below)
        return frozenset(open_cached_or_thread)

    def keep(self, digests: Collection[Digest]) -> None:
        """Forget all manifests but these."""
        for digest in self._known.keys() - set(digests):
            del self._known[digest]

    async def _read(self, content: Child) -> _Read:
        known = self._known.get(content.digest)
        if known is not None:
            return known
        try:
            async with self._slots:
                data = await self._bytes(content.digest)
            found = _Read(children(data), detect(data) in INDEXES)
        except ContentNotFound:
            return _Read()
        except ManifestInvalid as error:
            if content.media_type in MANIFESTS:
                digest = str(content.digest)
                log.warning("manifest cannot be read", digest=digest, error=error.message)
            found = _Read()
        self._known[content.digest] = found
        for child in found.children:
            self._expect(child)
        return found

    async def _bytes(self, digest: Digest) -> bytes:
        async with self._open(digest) as content:
            if content.size > MAX_MANIFEST:
                raise ManifestInvalid(f"it has {content.size} bytes, more than {MAX_MANIFEST}")
            return b"".join([piece async for piece in content.read(0, content.size)])
