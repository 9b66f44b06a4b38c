"""Replicas in memory, for tests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

from spegel_py.errors import ContentNotFound, UnpackUnsupported
from spegel_py.oci.digest import Digest
from spegel_py.store.base import ImageWriter, PlatformImage, PulledImage, Replica
from spegel_py.store.memory_store import MemoryStore
from spegel_py.store.memory_writer import MemoryImageWriter


class MemoryReplicas:
    """The Replicas port over a MemoryStore, which remembers the replicas for the next instance."""

    def __init__(self, *, store: MemoryStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._held: dict[Digest, Replica] = {}

    def held(self) -> Mapping[Digest, Replica]:
        return dict(self._held)

    async def load(self) -> None:
        self._store.check_here()
        for manifest, replica in list(self._store.replicas.items()):
            if replica.expires <= self._clock():
                self._store.release(manifest)
        self._held = dict(self._store.replicas)

    async def pulled(self) -> list[PulledImage]:
        return self._store.pulled()

    @asynccontextmanager
    async def writing(
        self, image: PlatformImage, *, sources: Collection[str] = (), is_shared: bool = True
    ) -> AsyncIterator[ImageWriter]:
        self._store.check_here()
        self._store.written.append(image)
        try:
            yield MemoryImageWriter(store=self._store)
        finally:
            self._store.written.remove(image)
            if image not in self._store.written and image.manifest not in self._held:
                for blob in image.blobs:
                    self._store.parts.pop(blob.digest, None)
                self._store.collect()

    async def hold(self, replica: Replica) -> None:
        for blob in replica.image.blobs:
            if (await self._store.stat(blob.digest)).size != blob.size:
                raise ContentNotFound(f"{blob.digest} has not {blob.size} bytes here")
        replica = dataclasses.replace(replica, is_unpacked=False)
        self._held[replica.image.manifest] = replica
        self._store.hold(replica)

    async def unpack(self, manifest: Digest) -> None:
        raise UnpackUnsupported("nothing in memory is unpacked")

    async def release(self, manifest: Digest) -> int:
        self._store.check_here()
        if self._held.pop(manifest, None) is None:
            return 0
        self._store.release(manifest)
        return self._store.collect()
