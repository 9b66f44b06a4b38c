"""Reading containerd's blobs: as files where its folder is mounted, else over gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from spegel_py.errors import ContentNotFound, DigestInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.store.base import Content, Descriptor
from spegel_py.store.containerd.blob_records import BlobRecords
from spegel_py.store.containerd.content_folder import ContentFolder
from spegel_py.store.containerd.grpc_client import Client
from spegel_py.store.file_access import (
    BLOCKING,
    PIECE,
    FileAccess,
    FileContent,
    open_cached_or_thread,
)

log = structlog.get_logger(__name__)

ALGORITHMS = ("sha256", "sha512")

FEW = 64
"""Blobs looked up on the event loop, if the kernel has all of them in memory; this takes 1 ms at
most.
"""


class Blobs(Protocol):
    """The access to containerd's content that the store and the walker need."""

    async def stat(self, digest: Digest) -> Descriptor: ...
    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]: ...

    def expect(self, child: Child) -> None:
        """Learn a blob's length from a manifest that names it."""
        ...

    async def all(self) -> frozenset[Digest]:
        """Return the digests of all blobs."""
        ...

    async def present(
        self, digests: Collection[Digest], *, anew: Collection[Digest] = ()
    ) -> frozenset[Digest]:
        """Return the digests whose blobs are here.

        `anew` are digests whose remembered records may be outdated, so containerd is asked again.
        """
        ...


class FileBlobs:
    """Blobs read from the content store's folder.

    It holds committed blobs only; ingests lie elsewhere.

    Blobs with a remembered record need no daemon, so peers are served while containerd restarts. A
    file that only another namespace holds counts as absent. So does a file with another length than
    the manifests say: a power cut or a full disk damaged it, and a body that is too short would
    fail a pull.
    """

    def __init__(self, *, content_path: Path, records: BlobRecords) -> None:
        self._root = content_path
        self._records = records
        self._lengths: dict[Digest, frozenset[int]] = {}

    def __repr__(self) -> str:
        return f"<FileBlobs {self._root}>"

    async def stat(self, digest: Digest) -> Descriptor:
        async with self.open(digest) as content:
            return Descriptor(digest, content.size)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        fd = await open_cached_or_thread(partial(self._open, digest), os.close)
        try:
            if digest not in self._records:
                await self._records.check(digest)
            size = os.fstat(fd).st_size
            if not self._is_whole(digest, size):
                log.warning("content damaged", digest=str(digest), size=size)
                raise ContentNotFound(f"the copy of {digest} here is damaged: it has {size} bytes")
            yield FileContent(fd, size)
        finally:
            os.close(fd)

    def expect(self, child: Child) -> None:
        # One manifest may be wrong about a length, so the length in any manifest is accepted.
        self._lengths[child.digest] = self._lengths.get(child.digest, frozenset()) | {child.size}

    async def all(self) -> frozenset[Digest]:
        found = await asyncio.to_thread(self._list)
        self._lengths = {
            digest: lengths for digest, lengths in self._lengths.items() if digest in found
        }
        return found

    async def present(
        self, digests: Collection[Digest], *, anew: Collection[Digest] = ()
    ) -> frozenset[Digest]:
        if len(digests) > FEW:
            here = await asyncio.to_thread(self._pick, digests, BLOCKING)
        else:
            here = await open_cached_or_thread(partial(self._pick, digests))
        unsure = frozenset(one for one in here if one in anew or one not in self._records)
        return (here - unsure) | await self._records.query(unsure) if unsure else here

    def _list(self) -> frozenset[Digest]:
        self._check_here()
        found = set()
        for algorithm in ALGORITHMS:
            try:
                names = [path.name for path in (self._root / "blobs" / algorithm).iterdir()]
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreUnavailable(f"{self._root} cannot be read: {error.strerror}") from error
            for name in names:
                try:
                    found.add(Digest.parse(f"{algorithm}:{name}"))
                except DigestInvalid:
                    continue
        return frozenset(found)

    def _pick(self, digests: Collection[Digest], access: FileAccess) -> frozenset[Digest]:
        return frozenset(digest for digest in digests if self._is_here(digest, access))

    def _is_here(self, digest: Digest, access: FileAccess) -> bool:
        try:
            fd = self._open(digest, access)
        except ContentNotFound:
            return False
        try:
            return self._is_whole(digest, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def _open(self, digest: Digest, access: FileAccess) -> int:
        try:
            return access.open(self._root, "blobs", digest.algorithm, digest.hex)
        except StoreUnavailable as error:
            if self._root.exists() or not self._root.parent.is_dir():
                raise
            raise ContentNotFound(f"no content {digest}: containerd holds none yet") from error

    def _is_whole(self, digest: Digest, size: int) -> bool:
        return size in self._lengths.get(digest, (size,))

    def _check_here(self) -> None:
        """Raise StoreUnavailable if containerd's folder is away.

        containerd 2.1 creates the content folder with its first blob, so its parent is checked.
        """
        if not self._root.parent.is_dir():
            raise StoreUnavailable(f"the content path {self._root} is not there")


class LocatedBlobs:
    """Blobs read as files from the folder in use, or through the socket while there is none."""

    def __init__(self, *, folder: ContentFolder, client: Client, records: BlobRecords) -> None:
        self._folder = folder
        self._records = records
        self._remote = RemoteBlobs(client=client, records=records)
        self._files: dict[Path, FileBlobs] = {}

    def __repr__(self) -> str:
        return repr(self._in_use)

    @property
    def _in_use(self) -> FileBlobs | RemoteBlobs:
        path = self._folder.path
        if path is None:
            return self._remote
        if path not in self._files:
            self._files = {path: FileBlobs(content_path=path, records=self._records)}
        return self._files[path]

    async def stat(self, digest: Digest) -> Descriptor:
        return await self._in_use.stat(digest)

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]:
        return self._in_use.open(digest)

    def expect(self, child: Child) -> None:
        self._in_use.expect(child)

    async def all(self) -> frozenset[Digest]:
        return await self._in_use.all()

    async def present(
        self, digests: Collection[Digest], *, anew: Collection[Digest] = ()
    ) -> frozenset[Digest]:
        return await self._in_use.present(digests, anew=anew)


class RemoteBlobs:
    """Blobs read through containerd's socket."""

    def __init__(self, *, client: Client, records: BlobRecords) -> None:
        self._client = client
        self._records = records

    def __repr__(self) -> str:
        return f"<RemoteBlobs {self._client!r}>"

    async def stat(self, digest: Digest) -> Descriptor:
        return Descriptor(digest, (await self._client.info(digest)).size)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        found = await self._client.info(digest)
        yield RemoteContent(self._client, digest, found.size)

    def expect(self, child: Child) -> None:
        """Ignore the length: the daemon records it itself, and a shorter read fails."""

    async def all(self) -> frozenset[Digest]:
        return await self._records.list()

    async def present(
        self, digests: Collection[Digest], *, anew: Collection[Digest] = ()
    ) -> frozenset[Digest]:
        return await self._records.query(digests)


@dataclass(frozen=True, slots=True)
class RemoteContent:
    """The Content port over gRPC. A blob deleted between two reads fails the second."""

    client: Client
    digest: Digest
    size: int

    @property
    def fd(self) -> None:
        return None

    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        end = start + length
        if end > self.size:
            raise StoreUnavailable(f"content of {self.size} bytes ends before byte {end}")
        try:
            async for data in self.client.read(self.digest, start, length):
                for at in range(0, len(data), PIECE):
                    yield data[at : at + PIECE]
                start += len(data)
        except ContentNotFound as error:
            raise StoreUnavailable(f"{self.digest} was deleted while it was read") from error
        if start != end:
            raise StoreUnavailable(f"content of {self.size} bytes ended at byte {start}, not {end}")
