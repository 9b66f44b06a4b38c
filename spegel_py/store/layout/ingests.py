"""What is being written into a layout folder right now: its parts, by `pull`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Ingest
from spegel_py.store.growing import Following, Found, as_total
from spegel_py.store.layout.blob import PARTIAL, TOTAL, part_name
from spegel_py.store.layout.folder import BLOBS
from spegel_py.store.reach import Reach


class LayoutIngests:
    """The Ingests port over the parts in a layout folder."""

    def __init__(self, *, root: Path) -> None:
        self._root = root
        self._following = Following(self._find)

    def __repr__(self) -> str:
        return f"<LayoutIngests {self._root} {self._following!r}>"

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        return self._following.open(digest)

    def has_open(self, digest: Digest) -> bool:
        return self._following.has(digest)

    def _find(self, digest: Digest, reach: Reach) -> Found:
        name = part_name(digest)
        total = as_total(reach.read(self._root, BLOBS, PARTIAL, name + TOTAL))
        try:
            fd = reach.open(self._root, BLOBS, PARTIAL, name)
        except StoreError as error:
            raise ContentNotFound(f"{digest} is not being pulled") from error
        return Found(fd, self._root / BLOBS / PARTIAL / name, total)
