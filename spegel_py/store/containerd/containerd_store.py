"""containerd's content as a store: committed blobs, ingests, and checks before the start."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from spegel_py.errors import ConfigError, ContentNotFound, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Ingest, Tag
from spegel_py.store.containerd.blob_access import Blobs, FileBlobs, RemoteBlobs
from spegel_py.store.containerd.blob_records import BlobRecords, ContainerdOrigins
from spegel_py.store.containerd.containerd_replicas import ContainerdReplicas
from spegel_py.store.containerd.grpc_client import Client, NamedImage
from spegel_py.store.containerd.pull_times import PullTimes
from spegel_py.store.file_access import FileAccess
from spegel_py.store.growing import GrowingFiles, IngestFile, parse_total


class ContainerdStore:
    """The Store port over a daemon. Tags come from its socket, blobs from its folder.

    Every blob in the client's namespace is found by its digest, whatever its labels, so imported
    images count too. Without a `content_path` (None) blobs are read through the socket.
    """

    def __init__(self, *, client: Client, content_path: Path | None = None) -> None:
        self.client = client
        self.pulls = PullTimes()
        self.replicas = ContainerdReplicas(client=client)
        self.records = records = BlobRecords(client=client)
        self.origins = ContainerdOrigins(client=client, records=records)
        self.blobs: Blobs = (
            FileBlobs(content_path=content_path, records=records)
            if content_path
            else RemoteBlobs(client=client, records=records)
        )

    def __repr__(self) -> str:
        return f"<ContainerdStore {self.client!r} {self.blobs!r}>"

    async def resolve(self, name: str) -> Tag:
        image = await self.image(name)
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

    Only ingests of `namespace` are found, or of all namespaces (None).

    An ingest is a folder of an unpredictable name with three files. `data` grows. `ref` starts with
    the namespace and ends in the digest, as in `k8s.io/7/layer-sha256:…` (1.6 to 2.1). `total` is
    the final length. The folder exists before containerd asks its mirror for the content. `data` is
    renamed at the commit, so an open descriptor reads on. The ingest folder itself is created with
    the first ingest.
    """

    def __init__(self, *, content_path: Path, namespace: str | None) -> None:
        self._root = content_path
        self._begin = "" if namespace is None else f"{namespace}/"
        self._growing = GrowingFiles(self._find)

    def __repr__(self) -> str:
        return f"<ContainerdIngests {self._root} {self._growing!r}>"

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        return self._growing.open(digest)

    def has_open(self, digest: Digest) -> bool:
        return self._growing.has(digest)

    def _find(self, digest: Digest, access: FileAccess) -> IngestFile:
        """Return the ingest of a digest that was written last. Older ones are leftovers."""
        with ExitStack() as opened:
            found = [
                one
                for folder in self._folders(digest, access)
                if (one := self._open(folder, access, opened))
            ]
            if not found:
                raise ContentNotFound(f"{digest} is not being pulled")
            newest = max(found, key=lambda one: os.fstat(one.fd).st_mtime_ns)
            return replace(newest, fd=os.dup(newest.fd))

    def _folders(self, digest: Digest, access: FileAccess) -> list[str]:
        ends = (f"-{digest}", f"@{digest}")
        folders = access.names(self._root, FOLDER)  # empty before the first pull
        refs = ((folder, access.read(self._root, FOLDER, folder, "ref")) for folder in folders)
        return [
            folder for folder, ref in refs if ref.startswith(self._begin) and ref.endswith(ends)
        ]

    def _open(self, folder: str, access: FileAccess, opened: ExitStack) -> IngestFile | None:
        total = parse_total(access.read(self._root, FOLDER, folder, "total"))
        try:
            fd = access.open(self._root, FOLDER, folder, "data")
        except StoreError:  # the ingest has just ended
            return None
        opened.callback(os.close, fd)
        return IngestFile(fd, self._root / FOLDER / folder / "data", total)


_METADATA = "io.containerd.metadata.v1.bolt"
"""The folder that every containerd creates beside its content folder, at its first start."""


def check_socket(socket: Path) -> None:
    """Raise unless `socket` is a Unix socket that this process may use.

    Raises StoreUnavailable for a socket that does not exist yet, ConfigError for other faults.
    """
    advice = "give containerd's socket, usually /run/containerd/containerd.sock"
    try:
        mode = socket.stat().st_mode
    except PermissionError as error:
        raise ConfigError(
            f"{socket} cannot be reached by user {os.geteuid()}; run as root"
        ) from error
    except FileNotFoundError as error:
        raise StoreUnavailable(
            f"there is no {socket} yet; start containerd, or {advice}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{socket} cannot be reached: {error.strerror}; {advice}") from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{socket} is not a socket; {advice}")
    if not os.access(socket, os.R_OK | os.W_OK):
        raise ConfigError(
            f"{socket} may not be used by user {os.geteuid()}; run as root or change its group"
        )


def check_content_path(content_path: Path | None) -> None:
    """Raise unless `content_path` is containerd's content store, or None (not mounted).

    Before the first pull the folder may be empty. It may also be missing, if its parent belongs to
    containerd.

    Raises StoreUnavailable for a folder that does not exist yet, ConfigError for other faults.
    """
    if content_path is None or (
        not content_path.exists() and (content_path.parent / _METADATA).is_dir()
    ):
        return
    advice = (
        "mount containerd's io.containerd.content.v1.content there, "
        "or set it empty to read over the socket"
    )
    if not content_path.exists():
        raise StoreUnavailable(
            f"there is no content path {content_path} yet; start containerd, or {advice}"
        )
    if not content_path.is_dir():
        raise ConfigError(f"the content path {content_path} is not a folder; {advice}")
    if not os.access(content_path, os.R_OK | os.X_OK):
        raise ConfigError(
            f"the content path {content_path} cannot be read by user {os.geteuid()}; run as root"
        )
    names = {path.name for path in content_path.iterdir()}
    if names and not names & {"blobs", "ingest"}:
        raise ConfigError(
            f"the content path {content_path} holds neither blobs nor ingest; {advice}"
        )
