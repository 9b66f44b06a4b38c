"""Replicas in an image layout: entries in a file of their own beside index.json.

Nothing collects the blobs of a layout, so a replica only keeps the image's tags: they are answered
after index.json has lost them. A release deletes no blob, because another process may be about to
tag it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from spegel_py.errors import ContentNotFound, DigestInvalid, StoreUnavailable, UnpackUnsupported
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import is_tag
from spegel_py.store.base import (
    Descriptor,
    ImageWriter,
    PlatformImage,
    PulledImage,
    Replica,
    ReplicaReason,
    Tag,
)
from spegel_py.store.layout.blob import disk_errors
from spegel_py.store.layout.folder import BLOBS, layout_identity
from spegel_py.store.layout.layout_image_writer import LayoutImageWriter
from spegel_py.tools.files import replace_file

log = structlog.get_logger(__name__)

REPLICAS = "replicas.json"
"""The file in the layout's folder: a list of the replicas."""


class LayoutReplicas:
    """The Replicas port over a layout's folder. One process at a time changes its replicas.

    Args:
        index: returns the tags of index.json.
    """

    def __init__(
        self,
        *,
        root: Path,
        index: Callable[[], Awaitable[Mapping[str, Tag]]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._index = index
        self._path = root / REPLICAS
        self._clock = clock
        self._held: dict[Digest, Replica] = {}
        self._lock = asyncio.Lock()
        self._fault: str | None = None

    def __repr__(self) -> str:
        return f"<LayoutReplicas {len(self._held)} of {self._root}>"

    def held(self) -> Mapping[Digest, Replica]:
        return dict(self._held)

    async def load(self) -> None:
        async with self._lock:
            try:
                found = await asyncio.to_thread(self._read)
            except (ValueError, KeyError, TypeError, RecursionError, DigestInvalid) as error:
                found = []
                if self._fault is None:
                    log.warning("replicas cannot be read", path=str(self._path), error=repr(error))
                self._fault = repr(error)
            else:
                self._fault = None
            now = self._clock()
            self._held = {one.image.manifest: one for one in found if one.expires > now}

    async def pulled(self) -> list[PulledImage]:
        return [
            PulledImage(name, Child(tag.digest, 0, ""), tag.pulled)
            for name, tag in (await self._index()).items()
        ]

    @asynccontextmanager
    async def writing(
        self, image: PlatformImage, *, sources: Collection[str] = (), is_shared: bool = True
    ) -> AsyncIterator[ImageWriter]:
        yield LayoutImageWriter(root=self._root, is_shared=is_shared)

    async def hold(self, replica: Replica) -> None:
        replica = dataclasses.replace(replica, is_unpacked=False)
        async with self._lock:
            await asyncio.to_thread(self._check, replica.image)
            await self._replace({**self._held, replica.image.manifest: replica})

    async def unpack(self, manifest: Digest) -> None:
        raise UnpackUnsupported("an image layout is not unpacked")

    async def release(self, manifest: Digest) -> int:
        async with self._lock:
            if manifest in self._held:
                left = {one: held for one, held in self._held.items() if one != manifest}
                await self._replace(left)
        return 0

    def tags(self) -> dict[str, Tag]:
        """Return the tags of all replicas. Of two with one name, the one pulled last counts."""
        found: dict[str, Tag] = {}
        for replica in self._held.values():
            for name, pulled in replica.names.items():
                if is_tag(name) and (name not in found or found[name].pulled < pulled):
                    found[name] = Tag(replica.image.root.digest, pulled)
        return found

    async def _replace(self, held: dict[Digest, Replica]) -> None:
        """Write the replicas, and only then count them as held.

        A file that cannot be read is not replaced, since other replicas may be in it.
        """
        if self._fault is not None:
            raise StoreUnavailable(
                f"{self._path} cannot be read: {self._fault}; repair or remove it"
            )
        await asyncio.to_thread(self._write, list(held.values()))
        self._held = held

    # What follows blocks.

    def _check(self, image: PlatformImage) -> None:
        """Raise ContentNotFound unless a file of the right size is there for each blob."""
        layout_identity(self._root)
        for blob in image.blobs:
            path = self._root / BLOBS / blob.digest.algorithm / blob.digest.hex
            try:
                size = path.lstat().st_size
            except OSError as error:
                raise ContentNotFound(f"no content {blob.digest} in {self._root}") from error
            if size != blob.size:
                raise ContentNotFound(f"{path} has {size} bytes, not {blob.size}")

    def _read(self) -> list[Replica]:
        layout_identity(self._root)
        with disk_errors(self._root):
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return []
        return [_replica(entry) for entry in json.loads(data)]

    def _write(self, replicas: list[Replica]) -> None:
        layout_identity(self._root)
        with disk_errors(self._root):
            data = json.dumps([_entry(one) for one in replicas]).encode()
            replace_file(self._path, data)


def _entry(replica: Replica) -> dict[str, Any]:
    image = replica.image
    return {
        "manifest": str(image.manifest),
        "root": {
            "digest": str(image.root.digest),
            "size": image.root.size,
            "mediaType": image.root.media_type,
        },
        "blobs": {str(blob.digest): blob.size for blob in image.blobs},
        "names": dict(replica.names),
        "reason": replica.reason,
        "used": replica.used,
        "expires": replica.expires,
    }


def _replica(entry: dict[str, Any]) -> Replica:
    root = entry["root"]
    return Replica(
        image=PlatformImage(
            manifest=Digest.parse(entry["manifest"]),
            root=Child(Digest.parse(root["digest"]), int(root["size"]), str(root["mediaType"])),
            blobs=frozenset(
                Descriptor(Digest.parse(digest), int(size))
                for digest, size in entry["blobs"].items()
            ),
        ),
        names={str(name): float(pulled) for name, pulled in entry["names"].items()},
        reason=ReplicaReason(entry["reason"]),
        used=float(entry["used"]),
        expires=float(entry["expires"]),
    )
