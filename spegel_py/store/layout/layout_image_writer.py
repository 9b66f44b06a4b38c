"""Writing images into a layout's folder without tagging them. The parts stay for the next try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from spegel_py.errors import DigestMismatch
from spegel_py.oci.manifest import Child
from spegel_py.store.base import ContentWriter, ImageWriter
from spegel_py.store.layout.blob import BlobWriter
from spegel_py.store.layout.folder import BLOBS, layout_identity
from spegel_py.tools.threads import run


class LayoutImageWriter(ImageWriter):
    """The ImageWriter port over a layout's folder."""

    def __init__(self, *, root: Path, is_shared: bool) -> None:
        self._root = root
        self._is_shared = is_shared

    def __repr__(self) -> str:
        return f"<LayoutImageWriter {self._root}>"

    @asynccontextmanager
    async def open(
        self, blob: Child, *, children: Sequence[Child] = ()
    ) -> AsyncIterator[ContentWriter]:
        # The thread fills this list: a cancellation may come while the part is being opened.
        opened: list[BlobWriter] = []
        try:
            if await run(self._has_or_begins, blob, opened):
                yield LayoutContentWriter(blob=blob, part=None)
            else:
                yield LayoutContentWriter(blob=blob, part=opened[0])
        finally:
            for part in opened:
                await run(part.close)

    def _has_or_begins(self, blob: Child, opened: list[BlobWriter]) -> bool:
        """Return True if the blob is here; else begin its part. It blocks."""
        layout_identity(self._root)
        path = self._root / BLOBS / blob.digest.algorithm / blob.digest.hex
        try:
            if path.lstat().st_size == blob.size:
                return True
        except OSError:
            pass
        opened.append(
            BlobWriter(
                folder=self._root / BLOBS,
                digest=blob.digest,
                is_durable=True,
                total=blob.size,
                is_background=not self._is_shared,
            )
        )
        return False


class LayoutContentWriter(ContentWriter):
    """The ContentWriter port over a part file; without a part, the blob is here."""

    def __init__(self, *, blob: Child, part: BlobWriter | None) -> None:
        self._blob = blob
        self._part = part

    @property
    def is_here(self) -> bool:
        return self._part is None

    @property
    def offset(self) -> int:
        return self._blob.size if self._part is None else self._part.offset

    async def write(self, data: bytes) -> None:
        if self._part is not None:
            await run(self._part.write, data)

    async def restart(self) -> None:
        if self._part is not None:
            await run(self._part.restart)

    async def commit(self) -> None:
        if self._part is None:
            return
        if self._part.offset != self._blob.size:
            length = self._part.offset
            await run(self._part.restart)
            raise DigestMismatch(f"{length} bytes are not the content of {self._blob.digest}")
        await run(self._part.commit)
