"""The two ways to containerd's blobs: as files where its folder is mounted, else over gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spegel_py.errors import ContentNotFound, DigestInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor
from spegel_py.store.containerd.client import Client
from spegel_py.store.files import PIECE, FileContent, open_file

ALGORITHMS = ("sha256", "sha512")

CALLS = 16
"""Calls of one batch that are under way at the same time; more only queue up in the daemon."""


class Blobs(Protocol):
    """What the store and the walk need of containerd's content."""

    async def stat(self, digest: Digest) -> Descriptor: ...
    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]: ...

    async def all(self) -> frozenset[Digest]:
        """Return every blob there is."""
        ...

    async def present(self, digests: Collection[Digest]) -> frozenset[Digest]:
        """Return those of the digests whose blobs are there."""
        ...


class FileBlobs:
    """Blobs read from the content store's folder: committed ones only, pulls under way lie elsewhere.

    It needs no daemon: peers are served while containerd restarts.
    """

    def __init__(self, *, content_path: Path) -> None:
        self._root = content_path

    def __repr__(self) -> str:
        return f"<FileBlobs {self._root}>"

    async def stat(self, digest: Digest) -> Descriptor:
        async with self.open(digest) as content:
            return Descriptor(digest, content.size)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        try:
            fd = await open_file(self._root, "blobs", digest.algorithm, digest.hex)
        except StoreUnavailable as error:
            if self._root.exists() or not self._root.parent.is_dir():
                raise
            raise ContentNotFound(f"no content {digest}: containerd holds none yet") from error
        try:
            yield FileContent(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    async def all(self) -> frozenset[Digest]:
        return await asyncio.to_thread(self._list)

    async def present(self, digests: Collection[Digest]) -> frozenset[Digest]:
        return await asyncio.to_thread(self._pick, digests)

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

    def _pick(self, digests: Collection[Digest]) -> frozenset[Digest]:
        self._check_here()
        blobs = self._root / "blobs"
        try:
            return frozenset(digest for digest in digests if (blobs / digest.algorithm / digest.hex).is_file())
        except OSError as error:
            raise StoreUnavailable(f"{self._root} cannot be read: {error.strerror}") from error

    def _check_here(self) -> None:
        """Raise StoreUnavailable where containerd's folder is away; 2.1 makes the content's with the first blob."""
        if not self._root.parent.is_dir():
            raise StoreUnavailable(f"the content path {self._root} is not there")


class RemoteBlobs:
    """Blobs read through containerd's socket."""

    def __init__(self, *, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RemoteBlobs {self._client!r}>"

    async def stat(self, digest: Digest) -> Descriptor:
        return await self._client.info(digest)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        found = await self._client.info(digest)
        yield RemoteContent(self._client, digest, found.size)

    async def all(self) -> frozenset[Digest]:
        return frozenset(await self._client.content())

    async def present(self, digests: Collection[Digest]) -> frozenset[Digest]:
        slots = asyncio.Semaphore(CALLS)

        async def is_here(digest: Digest) -> bool:
            async with slots:
                try:
                    await self._client.info(digest)
                except ContentNotFound:
                    return False
                return True

        asked = list(digests)
        answers = await asyncio.gather(*map(is_here, asked), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return frozenset(digest for digest, answer in zip(asked, answers, strict=True) if answer)


@dataclass(frozen=True, slots=True)
class RemoteContent:
    """The Content port over gRPC; a blob that is deleted between two reads breaks the second."""

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
