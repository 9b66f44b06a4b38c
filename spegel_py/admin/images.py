"""Lists the images that this node holds, with the peers that hold each image too.

A listing reads only the images that it shows, never all images. The content of manifests is
remembered, since it cannot change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.image_pulls import ImageContent
from spegel_py.errors import ContentNotFound, ManifestInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import MANIFESTS, MAX_MANIFEST, OCI_INDEX, Child, children
from spegel_py.routing.base import Peer
from spegel_py.store.base import Store
from spegel_py.tools.bounded import BoundedDict

SHOWN, MOST = 100, 1000
"""Images in a listing: by default, and at most."""

CALLS = 16
"""Images that are read at the same time."""

REMEMBERED = 2048
"""Manifests whose content is remembered, the latest ones: about 5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """One tag that is held and shared.

    Args:
        size: bytes of the blobs that are here.
        blobs: number of blobs that are here; manifests count as blobs.
        missing: number of blobs that are not here. In an index, only the platforms that are here
            count.
        pulled: Unix time of the pull.
        peers: peers that have the manifest too; None if they could not be found in time.
    """

    name: str
    digest: Digest
    size: int
    blobs: int
    missing: int
    pulled: float
    peers: tuple[Peer, ...] | None = None

    def as_json(self) -> dict[str, object]:
        """Return the image as `/debug/images` shows it."""
        peers = self.peers
        return {
            "name": self.name,
            "digest": str(self.digest),
            "size": self.size,
            "blobs": self.blobs,
            "missing": self.missing,
            "pulled": round(self.pulled, 3),
            "peers": None
            if peers is None
            else [{"id": peer.id, "address": peer.authority} for peer in peers],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageListing:
    """The images from `offset` on, in the order of their names.

    `total` images match, of `held` images in all. `error` is the reason if no image could be read.
    """

    images: tuple[LocalImage, ...]
    total: int
    held: int
    offset: int
    error: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the listing as `/debug/images` shows it."""
        return {
            "images": [image.as_json() for image in self.images],
            "total": self.total,
            "held": self.held,
            "offset": self.offset,
            "error": self.error,
        }


class LocalImages:
    """Lists the images of a node.

    `tags` returns the shared tags with the Unix times of their pulls, `held` the keys of all
    content that is here.
    """

    def __init__(
        self,
        *,
        store: Store,
        holders: HolderCache,
        tags: Callable[[], Mapping[str, float]],
        held: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._holders = holders
        self._tags = tags
        self._held = held
        self._slots = asyncio.Semaphore(CALLS)
        self._children: BoundedDict[Digest, tuple[Child, ...]] = BoundedDict(limit=REMEMBERED)

    def __repr__(self) -> str:
        return f"<LocalImages {len(self._tags())} tags, {len(self._children)} manifests known>"

    async def list(self, *, part: str = "", offset: int = 0, limit: int = SHOWN) -> ImageListing:
        """Return the images with `part` in their names. Images that go meanwhile are left out."""
        tags, slots = self._tags(), asyncio.Semaphore(CALLS)
        names = sorted(name for name in tags if part in name)

        async def read(name: str, pulled: float) -> LocalImage | None:
            async with slots:
                return await self._image(name, pulled)

        shown = names[offset : offset + limit]
        try:
            images_read = await asyncio.gather(*(read(name, tags[name]) for name in shown))
        except StoreUnavailable as error:
            return ImageListing(
                images=(), total=len(names), held=len(tags), offset=offset, error=str(error)
            )
        found = [image for image in images_read if image is not None]
        peers = await self._holders.of({image.digest for image in found})
        images = tuple(replace(image, peers=peers.get(image.digest)) for image in found)
        return ImageListing(images=images, total=len(names), held=len(tags), offset=offset)

    async def content(self, manifests: Iterable[Digest]) -> ImageContent:
        """Return the content of those of the manifests that are here, and of all below them.

        Empty if the store does not answer.
        """
        found: dict[str, tuple[Child, ...]] = {}
        level = set(manifests)
        try:
            while level:
                read = zip(
                    level, await asyncio.gather(*map(self._named_in_turn, level)), strict=True
                )
                named = {digest: below for digest, below in read if below is not None}
                found |= {str(digest): below for digest, below in named.items()}
                level = {
                    child.digest
                    for below in named.values()
                    for child in below
                    if child.media_type in MANIFESTS and str(child.digest) not in found
                }
        except StoreUnavailable:
            return ImageContent()
        return ImageContent(found, self._held())

    async def _named_in_turn(self, digest: Digest) -> tuple[Child, ...] | None:
        async with self._slots:
            return await self._named(digest)

    async def _image(self, name: str, pulled: float) -> LocalImage | None:
        try:
            digest = (await self._store.resolve(name)).digest
            size = (await self._store.stat(digest)).size
        except ContentNotFound:
            return None
        content = await self._content(Child(digest, size, OCI_INDEX))
        held = self._held()
        here = [child for child in content if str(child.digest) in held or child.digest == digest]
        return LocalImage(
            name=name,
            digest=digest,
            size=sum(child.size for child in here),
            blobs=len(here),
            missing=len(content) - len(here),
            pulled=pulled,
        )

    async def _content(self, root: Child) -> frozenset[Child]:
        """Return all content of an image, without the platforms whose manifests are not here."""
        reached, level = {root}, [root]
        while level:
            below: set[Child] = set()
            for parent in level:
                below.update(await self._below(parent))
            level = [
                child for child in below if child.media_type in MANIFESTS and child not in reached
            ]
            reached |= below
        return frozenset(reached)

    async def _below(self, parent: Child) -> tuple[Child, ...]:
        """Return the children of a manifest, without manifests that are not here.

        Empty if the manifest itself is not here, or is malformed.
        """
        held = self._held()
        return tuple(
            child
            for child in await self._named(parent.digest) or ()
            if child.media_type not in MANIFESTS or str(child.digest) in held
        )

    async def _named(self, digest: Digest) -> tuple[Child, ...] | None:
        """Return the children of a manifest; None if it is not here, or is malformed."""
        known = self._children.get(digest)
        if known is None:
            try:
                known = children(await self._read(digest))
            except (ContentNotFound, ManifestInvalid):
                return None
            self._children[digest] = known
        return known

    async def _read(self, digest: Digest) -> bytes:
        async with self._store.open(digest) as content:
            if content.size > MAX_MANIFEST:
                raise ManifestInvalid(f"{digest} is no manifest")
            return b"".join([piece async for piece in content.read(0, content.size)])
