"""What containerd holds, as a Store."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Tag
from spegel_py.store.containerd.blobs import Blobs, FileBlobs, RemoteBlobs
from spegel_py.store.containerd.client import Client
from spegel_py.store.containerd.origins import ContainerdOrigins
from spegel_py.store.containerd.pulls import PullTimes
from spegel_py.store.containerd.records import Records


class ContainerdStore:
    """The Store port over a daemon: tags are asked of it, blobs are read from its folder if that is mounted.

    Any blob of the client's namespace is found by its digest, whatever its labels: imported images are
    as good as pulled ones. Without a `content_path` (None) blobs are read through the socket.
    """

    def __init__(self, *, client: Client, content_path: Path | None = None) -> None:
        self.client = client
        self.pulls = PullTimes()
        self.records = records = Records(client=client)
        self.origins = ContainerdOrigins(client=client, records=records)
        self.blobs: Blobs = (
            FileBlobs(content_path=content_path, records=records)
            if content_path
            else RemoteBlobs(client=client, records=records)
        )

    def __repr__(self) -> str:
        return f"<ContainerdStore {self.client!r} {self.blobs!r}>"

    async def resolve(self, name: str) -> Tag:
        image = await self.client.image(name)
        return Tag(image.target.digest, self.pulls.of(image))

    async def stat(self, digest: Digest) -> Descriptor:
        return await self.blobs.stat(digest)

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]:
        return self.blobs.open(digest)
