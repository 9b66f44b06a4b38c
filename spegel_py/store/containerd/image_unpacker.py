"""Unpacking images into containerd's snapshotter before the runtime pulls them.

The calls are those of containerd's own unpacker. A lease keeps the snapshots, and no image record
is made, so the kubelet does not see them; its pull finds each layer unpacked.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

from google.protobuf.empty_pb2 import Empty

from spegel_py.errors import ContentNotFound, ManifestInvalid, StoreError, UnpackUnsupported
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import MAX_MANIFEST, all_children
from spegel_py.oci.rootfs import UnpackedLayer, layers_of
from spegel_py.store.base import PlatformImage
from spegel_py.store.containerd.api import diff_pb2, snapshots_pb2
from spegel_py.store.containerd.containerd_image_writer import set_labels
from spegel_py.store.containerd.cri import cri_status
from spegel_py.store.containerd.grpc_client import CHILD, Client
from spegel_py.store.containerd.grpc_errors import AlreadyExists, CallFailed
from spegel_py.store.containerd.lease_labels import UNPACKING, Lease, unpacking_lease
from spegel_py.store.containerd.leases import Leases

SNAPSHOTTER = "overlayfs"
"""containerd's default snapshotter."""

SUPPORTED = frozenset({"overlayfs", "fuse-overlayfs", "native"})
"""Snapshotters that unpack a whole layer into a folder. Others fetch parts of it when they are
read, or want layers of another form."""

APPLY_TIMEOUT = 900.0
"""Seconds for unpacking one layer: 10 GB on a disk that writes 12 MB/s."""

SNAPSHOT = "containerd.io/gc.ref.snapshot."
"""Prefix of the label of a config with its top snapshot; the snapshotter follows."""

UNCOMPRESSED = "containerd.io/uncompressed"
"""The label of a layer with its unpacked digest."""

_REF = "containerd.io/snapshot.ref"
_SNAPSHOTS = "/containerd.services.snapshots.v1.Snapshots"
_DIFF = "/containerd.services.diff.v1.Diff"


class ImageUnpacker:
    """Unpacks images.

    Args:
        default: the snapshotter of a daemon that does not tell its own.
    """

    def __init__(
        self, *, client: Client, default: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._leases = Leases(client=client)
        self._default = default
        self._clock = clock
        self._open: set[str] = set()

    def __repr__(self) -> str:
        return f"<ImageUnpacker {len(self._open)} under way>"

    @asynccontextmanager
    async def unpacking(self, image: PlatformImage) -> AsyncIterator[None]:
        """Unpack an image whose content is here. The snapshots are kept until the end.

        Raises as Replicas.unpack does. Snapshots that nothing else keeps are deleted at the end.
        """
        snapshotter = await find_snapshotter(self._client, default=self._default)
        if snapshotter not in SUPPORTED:
            raise UnpackUnsupported(
                f"containerd's snapshotter is {snapshotter}, which does not unpack ahead of a pull"
            )
        lease = unpacking_lease(image, now=self._clock())
        self._open.add(lease.id)
        try:
            await self._leases.create(lease)
            await self._unpack(image, snapshotter, lease)
            yield
        finally:
            self._open.discard(lease.id)
            with suppress(StoreError):  # the next start drops a leftover
                await asyncio.shield(self._leases.delete(lease, sync=True))

    async def drop_leftovers(self) -> None:
        """Delete the leases of earlier processes that were unpacking. Raises StoreUnavailable."""
        for lease in await self._leases.list(UNPACKING):
            if lease.id not in self._open:
                await self._leases.delete(lease, sync=True)

    async def _unpack(self, image: PlatformImage, snapshotter: str, lease: Lease) -> None:
        manifest = await self._read(image.manifest)
        [config, *_] = all_children(manifest)
        layers = layers_of(manifest, await self._read(config.digest))
        for layer in layers:
            await self._layer(layer, snapshotter, lease)
        top = {f"{SNAPSHOT}{snapshotter}": str(layers[-1].chain)}
        await set_labels(self._client, config.digest, top)

    async def _layer(self, layer: UnpackedLayer, snapshotter: str, lease: Lease) -> None:
        # The snapshot of a pull is leased before the look, so that it is not collected after it.
        await self._leases.add(lease, layer.chain, snapshotter=snapshotter)
        if not await self._is_unpacked(layer, snapshotter):
            await self._apply(layer, snapshotter, lease)
        await set_labels(self._client, layer.blob.digest, {UNCOMPRESSED: str(layer.diff_id)})

    async def _is_unpacked(self, layer: UnpackedLayer, snapshotter: str) -> bool:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=str(layer.chain))
        try:
            await self._client.call(
                f"{_SNAPSHOTS}/Stat", request, snapshots_pb2.StatSnapshotResponse
            )
        except ContentNotFound:
            return False
        return True

    async def _apply(self, layer: UnpackedLayer, snapshotter: str, lease: Lease) -> None:
        """Unpack one layer above its parent, unless a pull is quicker."""
        key = f"extract-{time.time_ns()}-{secrets.token_hex(4)} {layer.chain}"
        labels = [snapshots_pb2.Label(key=_REF, value=str(layer.chain))]
        prepare = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=str(layer.parent or ""), labels=labels
        )
        commit = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=snapshotter, name=str(layer.chain), key=key, labels=labels
        )
        is_committed = False
        try:
            prepared = await self._client.call(
                f"{_SNAPSHOTS}/Prepare",
                prepare,
                snapshots_pb2.PrepareSnapshotResponse,
                lease=lease.id,
            )
            await self._extract(layer, prepared.mounts)
            await self._client.call(f"{_SNAPSHOTS}/Commit", commit, Empty, lease=lease.id)
            is_committed = True
        except AlreadyExists:
            pass  # a pull by the runtime has unpacked it
        finally:
            if not is_committed:
                # Otherwise both copies would stay for as long as the lease.
                with suppress(StoreError):
                    await asyncio.shield(self._remove(key, snapshotter))

    async def _extract(self, layer: UnpackedLayer, mounts: Iterable[snapshots_pb2.Mount]) -> None:
        diff = diff_pb2.Descriptor(
            media_type=layer.blob.media_type,
            digest=str(layer.blob.digest),
            size=layer.blob.size,
        )
        request = diff_pb2.ApplyRequest(diff=diff, mounts=mounts)
        try:
            answer = await self._client.call(
                f"{_DIFF}/Apply", request, diff_pb2.ApplyResponse, timeout=APPLY_TIMEOUT
            )
        except CallFailed as error:
            raise ManifestInvalid(f"{layer.blob.digest} cannot be unpacked: {error}") from error
        if answer.applied.digest != str(layer.diff_id):
            raise ManifestInvalid(
                f"{layer.blob.digest} is {answer.applied.digest} when unpacked, "
                f"and not {layer.diff_id}, as the image's config says"
            )

    async def _remove(self, key: str, snapshotter: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        await self._client.call(f"{_SNAPSHOTS}/Remove", request, Empty)

    async def _read(self, digest: Digest) -> bytes:
        size = (await self._client.info(digest)).size
        if size > MAX_MANIFEST:
            raise ManifestInvalid(f"{digest} has {size} bytes, more than a manifest or a config")
        return b"".join([part async for part in self._client.read(digest, 0, size)])


async def find_snapshotter(client: Client, *, default: str) -> str:
    """Return the snapshotter of the runtime's images. Raises StoreUnavailable.

    Case 1: the CRI's status tells it (1.x).
    Case 2: a pulled image is unpacked by it.
    Case 3: the default.
    """
    status = await cri_status(client)
    if status.images is not None and status.images.snapshotter:
        return status.images.snapshotter
    labels = await client.labels()
    roots = [image.target.digest for image in await client.images()]
    return snapshotter_of(roots, labels) or default


def snapshotter_of(
    roots: Iterable[Digest], labels: Mapping[Digest, Mapping[str, str]]
) -> str | None:
    """Return the snapshotter by which most of these images are unpacked; None if none is. Pure.

    Args:
        roots: the targets of the runtime's images.
        labels: the labels of all blobs.
    """
    here = {str(digest): found for digest, found in labels.items()}
    seen: set[str] = set()
    waiting = {str(root) for root in roots}
    while waiting:
        digest = waiting.pop()
        if digest in here and digest not in seen:
            seen.add(digest)
            waiting |= {value for key, value in here[digest].items() if key.startswith(CHILD)}
    counts = Counter(
        key.removeprefix(SNAPSHOT)
        for digest in seen
        for key in here[digest]
        if key.startswith(SNAPSHOT)
    )
    return counts.most_common(1)[0][0] if counts else None
