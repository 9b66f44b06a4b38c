"""The content of an image, found by reading its manifests through the store.

Only content that is really here is listed. An image pulled for one platform lacks the manifests of
the others, and unpacking may have discarded its layers. containerd's gc labels also name the
children. Reading 1,000 manifests instead takes less than a second, and also finds content that
nobody labelled.

The bytes decide whether content is a manifest. The media type in an image's record or in an index
may be wrong, and one wrong record would hide the content of every image with that target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress

import structlog

from spegel_py.errors import ContentNotFound, ManifestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import INDEXES, MANIFESTS, MAX_MANIFEST, Child, ParsedManifest, parse
from spegel_py.store.base import Content, Descriptor, PlatformImage

log = structlog.get_logger(__name__)

CALLS = 16
"""Manifests read at the same time. More would only queue up in the daemon or at the disk."""

OpenContent = Callable[[Digest], AbstractAsyncContextManager[Content]]
"""Opens content by its digest, as Store.open does."""

StatContent = Callable[[Digest], Awaitable[Descriptor]]
"""Returns the descriptor of content by its digest, as Store.stat does."""

OnChild = Callable[[Child], None]
"""Called with each child that a manifest names."""


_LEAF = ParsedManifest("", ())
"""Content that is no manifest."""


class Walker:
    """Lists the content of images. Manifests are remembered, since they cannot change."""

    def __init__(
        self,
        *,
        open: OpenContent,  # noqa: A002 - as in the port
        expect: OnChild = lambda child: None,
    ) -> None:
        self._open = open
        self._expect = expect
        self._known: dict[Digest, ParsedManifest] = {}
        self._slots = asyncio.Semaphore(CALLS)

    def __repr__(self) -> str:
        return f"<Walker manifests={len(self._known)}>"

    async def reachable(
        self, root: Child, held: frozenset[Digest] | None = None
    ) -> frozenset[Digest]:
        """Return the digests of an image's content, missing ones included.

        A missing manifest ends its branch.

        Args:
            root: The image's target.
            held: The digests of all content here, if known: other manifests are not looked up.
        """
        found = {root.digest}
        level = [root]
        while level:
            parents = [one for one in level if held is None or one.digest in held]
            read = await asyncio.gather(*map(self._read, parents))
            below = [(child, one.media_type in INDEXES) for one in read for child in one.children]
            # Configs and layers are not read, unless their own descriptor calls them manifests.
            level = [
                child
                for child, is_of_index in below
                if child.digest not in found and (is_of_index or child.media_type in MANIFESTS)
            ]
            found.update(child.digest for child, _ in below)
        return frozenset(found)

    async def images(self, root: Child, stat: StatContent) -> dict[Digest, PlatformImage]:
        """Return the images below a root that are here completely, by their manifests' digests.

        An index leads to one image for each platform. The root's media type and size are those of
        its bytes, whatever the descriptor says. Raises StoreUnavailable.
        """
        found: dict[Digest, PlatformImage] = {}
        paths: list[tuple[Child, ...]] = [(root,)]
        while paths:
            path = paths.pop()
            parsed = await self._read(path[-1])
            above = {one.digest for one in path}
            if parsed.media_type in INDEXES:
                paths += [(*path, one) for one in parsed.children if one.digest not in above]
            elif parsed.media_type:
                digests = above | {one.digest for one in parsed.children}
                with suppress(ContentNotFound):
                    blobs = {one: (await stat(one)).size for one in digests}
                    top = await self._read(root)
                    manifest = path[-1].digest
                    found[manifest] = PlatformImage(
                        manifest=manifest,
                        root=Child(root.digest, blobs[root.digest], top.media_type),
                        blobs=frozenset(Descriptor(one, size) for one, size in blobs.items()),
                    )
        return found

    def keep(self, digests: Collection[Digest]) -> None:
        """Forget all other manifests."""
        for digest in self._known.keys() - set(digests):
            del self._known[digest]

    async def _read(self, content: Child) -> ParsedManifest:
        known = self._known.get(content.digest)
        if known is not None:
            return known
        try:
            async with self._slots:
                data = await self._bytes(content.digest)
            found = parse(data)
        except ContentNotFound:
            return _LEAF
        except ManifestInvalid as error:
            if content.media_type in MANIFESTS:
                digest = str(content.digest)
                log.warning("manifest cannot be read", digest=digest, error=error.message)
            found = _LEAF
        self._known[content.digest] = found
        for child in found.children:
            self._expect(child)
        return found

    async def _bytes(self, digest: Digest) -> bytes:
        async with self._open(digest) as content:
            if content.size > MAX_MANIFEST:
                raise ManifestInvalid(f"it has {content.size} bytes, more than {MAX_MANIFEST}")
            return b"".join([piece async for piece in content.read(0, content.size)])
