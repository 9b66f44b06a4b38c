"""Reading an image-layout folder: its committed blobs, and the parts that `pull` is writing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import structlog

from spegel_py.errors import ContentNotFound, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Ingest, Tag
from spegel_py.store.file_access import FileAccess, FileContent, Signature, open_file
from spegel_py.store.growing import GrowingFiles, IngestFile, parse_total
from spegel_py.store.layout.blob import PARTIAL, TOTAL, part_name
from spegel_py.store.layout.blob_verifier import BlobVerdicts, Verifier
from spegel_py.store.layout.folder import BLOBS, INDEX, layout_identity, read_index
from spegel_py.store.layout.layout_replicas import LayoutReplicas

log = structlog.get_logger(__name__)

SETTLE = 2.0
"""Seconds for which a blob with wrong content must stay unchanged before it is hashed again or
called damaged.
"""


class LayoutStore:
    """The Store and Origins ports over an OCI image layout. Only verified blobs are handed out.

    The first `stat` or `open` of an unverified blob takes as long as hashing it.
    """

    def __init__(self, *, root: Path, settle: float = SETTLE) -> None:
        self.root = root
        self.verifier = Verifier(BlobVerdicts(settle=settle))
        self.replicas = LayoutReplicas(root=root, index=self._index)
        self._tags: Mapping[str, Tag] = {}
        self._index_read: Signature | None = None
        self._index_was_bad = False
        self.repositories: Mapping[Digest, frozenset[str]] = {}
        """The repositories of content by its digest, as the watcher found them last.

        Empty without filters.
        """

    def __repr__(self) -> str:
        return f"<LayoutStore {self.root} tags={len(self._tags)} {self.verifier.verdicts!r}>"

    async def resolve(self, name: str) -> Tag:
        tags = await self.tags()
        try:
            return tags[name]
        except KeyError:
            raise ContentNotFound(f"no tag {name} in {self.root}") from None

    async def stat(self, digest: Digest) -> Descriptor:
        async with self.open(digest) as content:
            return Descriptor(digest, content.size)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        layout_identity(self.root)
        fd = await open_file(self.root, BLOBS, digest.algorithm, digest.hex)
        try:
            yield FileContent(fd, await self.verifier.check(digest, fd))
        finally:
            os.close(fd)

    async def sources(self, digest: Digest) -> frozenset[str]:
        return self.repositories.get(digest, frozenset())

    async def tags(self) -> Mapping[str, Tag]:
        """Return the tags of index.json and those that only replicas have."""
        return {**self.replicas.tags(), **await self._index()}

    async def _index(self) -> Mapping[str, Tag]:
        """Return the tags of index.json, or the last known ones while it cannot be read.

        Some tools write the file in place, so it may be incomplete for a moment.
        """
        layout_identity(self.root)
        try:
            signature = Signature.of((self.root / INDEX).lstat())
            if signature != self._index_read:
                self._tags = await read_index(self.root)
                self._index_read = signature
        except (ContentNotFound, FileNotFoundError):
            self._tags = {}
        except (ValueError, RecursionError, OSError, StoreUnavailable) as error:
            if not self._index_was_bad:
                log.warning(
                    "index.json cannot be read, keeping the tags known",
                    root=str(self.root),
                    error=str(error),
                )
            self._index_was_bad = True
        else:
            self._index_was_bad = False
        return self._tags


class LayoutIngests:
    """The Ingests port over the parts in a layout folder."""

    def __init__(self, *, root: Path) -> None:
        self._root = root
        self._growing = GrowingFiles(self._find)

    def __repr__(self) -> str:
        return f"<LayoutIngests {self._root} {self._growing!r}>"

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        return self._growing.open(digest)

    def has_open(self, digest: Digest) -> bool:
        return self._growing.has(digest)

    def _find(self, digest: Digest, access: FileAccess) -> IngestFile:
        name = part_name(digest)
        total = parse_total(access.read(self._root, BLOBS, PARTIAL, name + TOTAL))
        try:
            fd = access.open(self._root, BLOBS, PARTIAL, name)
        except StoreError as error:
            raise ContentNotFound(f"{digest} is not being pulled") from error
        return IngestFile(fd, self._root / BLOBS / PARTIAL / name, total)
