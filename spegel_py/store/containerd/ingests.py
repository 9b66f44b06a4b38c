"""What containerd is pulling right now: the files in its ingest folder.

An ingest is a folder of an unpredictable name with `data`, which grows, `ref`, which ends in the digest (as in
`layer-sha256:…`, 1.6 to 2.1), and `total`, its length. It is there before containerd asks its mirror for the content,
and `data` is renamed when it is committed, so a descriptor of it reads on. The folder is made with the first of them.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Ingest
from spegel_py.store.files import open_below
from spegel_py.store.growing import Following, Found, as_total, read_short

FOLDER = "ingest"


class ContainerdIngests:
    """The Ingests port over the folder of containerd's content store."""

    def __init__(self, *, content_path: Path) -> None:
        self._root = content_path
        self._following = Following(self._find)

    def __repr__(self) -> str:
        return f"<ContainerdIngests {self._root} {self._following!r}>"

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        return self._following.open(digest)

    def has_open(self, digest: Digest) -> bool:
        return self._following.has(digest)

    def _find(self, digest: Digest) -> Found:
        """Return the ingest of a digest that was written to last."""
        found = [one for folder in self._folders(digest) if (one := self._open(folder)) is not None]
        found.sort(key=lambda one: os.fstat(one.fd).st_mtime_ns)
        for other in found[:-1]:  # of another namespace, or left behind
            os.close(other.fd)
        if not found:
            raise ContentNotFound(f"{digest} is not being pulled")
        return found[-1]

    def _folders(self, digest: Digest) -> list[str]:
        try:
            folders = os.listdir(self._root / FOLDER)  # noqa: PTH208 - names are what is wanted
        except OSError:  # nothing was pulled yet
            return []
        ends = (f"-{digest}", f"@{digest}")
        return [folder for folder in folders if read_short(self._root, FOLDER, folder, "ref").endswith(ends)]

    def _open(self, folder: str) -> Found | None:
        try:
            fd = open_below(self._root, FOLDER, folder, "data")
        except StoreError:  # it has just ended
            return None
        total = as_total(read_short(self._root, FOLDER, folder, "total"))
        return Found(fd, self._root / FOLDER / folder / "data", total)
