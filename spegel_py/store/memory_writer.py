"""Writing images into a MemoryStore, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from spegel_py.errors import DigestMismatch, StoreFull
from spegel_py.oci.manifest import Child
from spegel_py.store.base import ContentWriter, ImageWriter
from spegel_py.store.memory_store import MemoryStore


class MemoryImageWriter(ImageWriter):
    """The ImageWriter port over a MemoryStore, which keeps the parts for the next writer."""

    def __init__(self, *, store: MemoryStore) -> None:
        self._store = store

    @asynccontextmanager
    async def open(
        self, blob: Child, *, children: Sequence[Child] = ()
    ) -> AsyncIterator[ContentWriter]:
        self._store.check_here()
        yield MemoryContentWriter(store=self._store, blob=blob)


class MemoryContentWriter(ContentWriter):
    """The ContentWriter port over bytes."""

    def __init__(self, *, store: MemoryStore, blob: Child) -> None:
        self._store = store
        self._blob = blob
        self._was_here = store.has(blob.digest)

    @property
    def is_here(self) -> bool:
        return self._was_here

    @property
    def offset(self) -> int:
        return self._blob.size if self._was_here else len(self._part)

    async def write(self, data: bytes) -> None:
        self._store.check_here()
        room = self._store.room
        if room is not None and len(data) > room:
            raise StoreFull("the memory store is full")
        if room is not None:
            self._store.room = room - len(data)
        self._part.extend(data)

    async def restart(self) -> None:
        self._store.check_here()
        self._part.clear()

    async def commit(self) -> None:
        self._store.check_here()
        if self._was_here:
            return
        data = bytes(self._part)
        if len(data) != self._blob.size or not self._blob.digest.matches(data):
            self._part.clear()
            raise DigestMismatch(f"{len(data)} bytes are not the content of {self._blob.digest}")
        self._store.add(data, algorithm=self._blob.digest.algorithm)
        del self._store.parts[self._blob.digest]
        self._was_here = True

    @property
    def _part(self) -> bytearray:
        return self._store.parts.setdefault(self._blob.digest, bytearray())
