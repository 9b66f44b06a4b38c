"""containerd's content as a store: committed blobs, ingests, and checks before the start."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from spegel_py.errors import ContentNotFound, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Ingest, Tag
from spegel_py.store.containerd.blob_access import Blobs, LocatedBlobs
from spegel_py.store.containerd.blob_records import BlobRecords, ContainerdOrigins
from spegel_py.store.containerd.containerd_replicas import ContainerdReplicas
from spegel_py.store.containerd.content_folder import ContentFolder
from spegel_py.store.containerd.grpc_client import Client, NamedImage
from spegel_py.store.containerd.image_unpacker import SNAPSHOTTER
from spegel_py.store.containerd.pull_times import PullTimes
from spegel_py.store.file_access import FileAccess
from spegel_py.store.growing import GrowingFiles, IngestFile, parse_total


class ContainerdStore:
    """The Store port over a daemon. Tags come from its socket, blobs from its folder.

    Every blob in the client's namespace is found by its digest, whatever its labels, so imported
    images count too. Without a `content_path` (None) blobs are read through the socket.

    `listed` are the images of the last listing. While the daemon is away, tags are resolved by
    them: nobody can move a tag there meanwhile.

    Args:
        snapshotter: the snapshotter of a daemon that does not tell its own.
    """

    def __init__(
        self,
        *,
        client: Client,
        content_path: Path | None = None,
        snapshotter: str = SNAPSHOTTER,
    ) -> None:
        self.client = client
        self.pulls = PullTimes()
        self.replicas = ContainerdReplicas(client=client, pulls=self.pulls, snapshotter=snapshotter)
        self.records = records = BlobRecords(client=client)
        self.origins = ContainerdOrigins(client=client, records=records)
        self.folder = ContentFolder(content_path)
        self.blobs: Blobs = LocatedBlobs(folder=self.folder, client=client, records=records)
        self.listed: Mapping[str, NamedImage] = {}

    def __repr__(self) -> str:
        return f"<ContainerdStore {self.client!r} {self.blobs!r}>"

    async def resolve(self, name: str) -> Tag:
        try:
            image = await self.image(name)
        except StoreUnavailable:
            if (known := self.listed.get(name)) is None:
                raise
            image = known
        return Tag(image.target.digest, self.pulls.of(image))

    async def image(self, name: str) -> NamedImage:
        """Return the image of this name, of a replica if the runtime has none."""
        try:
            return await self.client.image(name)
        except ContentNotFound:
            if (image := self.replicas.images().get(name)) is None:
                raise
            return image

    async def images(self) -> dict[str, NamedImage]:
        """Return all images by their names, those of replicas included."""
        found = self.replicas.images()
        return found | {image.name: image for image in await self.client.images()}

    async def stat(self, digest: Digest) -> Descriptor:
        return await self.blobs.stat(digest)

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]:
        return self.blobs.open(digest)


FOLDER = "ingest"


class ContainerdIngests:
    """The Ingests port over the ingest folder of containerd's content store.

    There are none while blobs are read over the socket. Only ingests of `namespaces` are found, or
    of all namespaces (None).

    An ingest is a folder of an unpredictable name with three files. `data` grows. `ref` starts with
    the namespace and ends in the digest, as in `k8s.io/7/layer-sha256:…` (1.6 to 2.1). `total` is
    the final length. The folder exists before containerd asks its mirror for the content. `data` is
    renamed at the commit, so an open descriptor reads on. The ingest folder itself is created with
    the first ingest.
    """

    def __init__(self, *, folder: ContentFolder, namespaces: Collection[str] | None) -> None:
        self._folder = folder
        self._begin = ("",) if namespaces is None else tuple(f"{each}/" for each in namespaces)
        self._growing = GrowingFiles(self._find)

    def __repr__(self) -> str:
        return f"<ContainerdIngests {self._folder!r} {self._growing!r}>"

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        return self._growing.open(digest)

    def has_open(self, digest: Digest) -> bool:
        return self._growing.has(digest)

    def _find(self, digest: Digest, access: FileAccess) -> IngestFile:
        """Return the ingest of a digest that was written last. Older ones are leftovers."""
        if (path := self._folder.path) is None:
            raise ContentNotFound("ingests cannot be seen over containerd's socket")
        with ExitStack() as opened:
            found = [
                one
                for folder in self._folders(path, digest, access)
                if (one := _open(path, folder, access, opened))
            ]
            if not found:
                raise ContentNotFound(f"{digest} is not being pulled")
            newest = max(found, key=lambda one: os.fstat(one.fd).st_mtime_ns)
            return replace(newest, fd=os.dup(newest.fd))

    def _folders(self, root: Path, digest: Digest, access: FileAccess) -> list[str]:
        ends = (f"-{digest}", f"@{digest}")
        folders = access.names(root, FOLDER)  # empty before the first pull
        refs = ((folder, access.read(root, FOLDER, folder, "ref")) for folder in folders)
        return [
            folder for folder, ref in refs if ref.startswith(self._begin) and ref.endswith(ends)
        ]


def _open(root: Path, folder: str, access: FileAccess, opened: ExitStack) -> IngestFile | None:
    total = parse_total(access.read(root, FOLDER, folder, "total"))
    try:
        fd = access.open(root, FOLDER, folder, "data")
    except StoreError:  # the ingest has just ended
        return None
    opened.callback(os.close, fd)
    return IngestFile(fd, root / FOLDER / folder / "data", total)
