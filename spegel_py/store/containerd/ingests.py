"""What containerd is pulling right now: the files in its ingest folder.

An ingest is a folder of an unpredictable name with `data`, which grows, `ref`, which begins with the
namespace and ends in the digest (as in `k8s.io/7/layer-sha256:…`, 1.6 to 2.1), and `total`, its length.
It is there before containerd asks its mirror for the content, and `data` is renamed when it is committed,
so a descriptor of it reads on. The folder is made with the first of them.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Ingest
from spegel_py.store.growing import Following, Found, as_total
from spegel_py.store.reach import Reach

FOLDER = "ingest"


class ContainerdIngests:
    """The Ingests port over the folder of containerd's content store.

    It finds what is written for one `namespace`, or for any (None).
    """

    def __init__(self, *, content_path: Path, namespace: str | None) -> None:
        self._root = content_path
        self._begin = "" if namespace is None else f"{namespace}/"
        self._following = Following(self._find)

    def __repr__(self) -> str:
        return f"<ContainerdIngests {self._root} {self._following!r}>"

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        return self._following.open(digest)

    def has_open(self, digest: Digest) -> bool:
        return self._following.has(digest)

    def _find(self, digest: Digest, reach: Reach) -> Found:
        """Return the ingest of a digest that was written to last: others were left behind."""
        with ExitStack() as opened:
            found = [
                one
                for folder in self._folders(digest, reach)
                if (one := self._open(folder, reach, opened))
            ]
            if not found:
                raise ContentNotFound(f"{digest} is not being pulled")
            newest = max(found, key=lambda one: os.fstat(one.fd).st_mtime_ns)
            return replace(newest, fd=os.dup(newest.fd))

    def _folders(self, digest: Digest, reach: Reach) -> list[str]:
        ends = (f"-{digest}", f"@{digest}")
        folders = reach.names(self._root, FOLDER)  # none where nothing was pulled yet
        refs = ((folder, reach.read(self._root, FOLDER, folder, "ref")) for folder in folders)
        return [
            folder for folder, ref in refs if ref.startswith(self._begin) and ref.endswith(ends)
        ]

    def _open(self, folder: str, reach: Reach, opened: ExitStack) -> Found | None:
        total = as_total(reach.read(self._root, FOLDER, folder, "total"))
        try:
            fd = reach.open(self._root, FOLDER, folder, "data")
        except StoreError:  # it has just ended
            return None
        opened.callback(os.close, fd)
        return Found(fd, self._root / FOLDER / folder / "data", total)
