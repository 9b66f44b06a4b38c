"""Replicas in containerd: each is a lease over the image's blobs in containerd's own store.

A lease keeps blobs from garbage collection. It makes no copy and no image record, so the kubelet
neither sees nor removes a replica, and its next pull uses the blobs that are here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Descriptor, ImageWriter, PlatformImage, PulledImage, Replica
from spegel_py.store.containerd.containerd_image_writer import ContainerdImageWriter
from spegel_py.store.containerd.grpc_client import Client, NamedImage
from spegel_py.store.containerd.grpc_errors import AlreadyExists
from spegel_py.store.containerd.image_unpacker import SNAPSHOTTER, ImageUnpacker
from spegel_py.store.containerd.lease_labels import (
    PREFIX,
    UNPACKED,
    WRITING,
    Lease,
    lease_of,
    made_at,
    remembered,
    replica_of,
    unpacked_lease,
    unpacked_manifest,
    writing_lease,
)
from spegel_py.store.containerd.leases import Leases
from spegel_py.store.containerd.pull_times import PullTimes

log = structlog.get_logger(__name__)

RESUMABLE = 3600.0
"""Seconds for which the bytes of an unfinished image are kept after its writing began."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A replica, the lease over its content, and the one over its snapshots, if it is unpacked."""

    replica: Replica
    lease: Lease
    unpacked: Lease | None = None


class ContainerdReplicas:
    """The Replicas port over leases in the client's namespace.

    Args:
        snapshotter: the snapshotter of a daemon that does not tell its own.
    """

    def __init__(
        self,
        *,
        client: Client,
        pulls: PullTimes,
        snapshotter: str = SNAPSHOTTER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._pulls = pulls
        self._leases = Leases(client=client)
        self._unpacker = ImageUnpacker(client=client, default=snapshotter, clock=clock)
        self._clock = clock
        self._held: dict[Digest, _Held] = {}
        self._written: dict[str, int] = {}  # leases with an open writer → writers
        self._lock = asyncio.Lock()
        self._last = 0.0
        self.on_change: Callable[[Replica], None] = lambda replica: None
        """Is called with each replica that was added or released."""

    def __repr__(self) -> str:
        return f"<ContainerdReplicas {len(self._held)} of {self._client.namespace}>"

    def held(self) -> Mapping[Digest, Replica]:
        return {manifest: held.replica for manifest, held in self._held.items()}

    async def load(self) -> None:
        async with self._lock:
            records = await self._client.content()
            found: dict[Digest, _Held] = {}
            await self._drop_leftovers()
            for lease in sorted(await self._leases.list(PREFIX), key=made_at):
                content = await self._leases.content(lease)
                here = [Descriptor(one, records[one].size) for one in content if one in records]
                replica = replica_of(lease, here)
                if replica is None or replica.expires <= self._clock():
                    log.info("replica dropped", lease=lease.id, blobs=len(here))
                    await self._leases.delete(lease)
                    continue
                manifest = replica.image.manifest
                if older := found.get(manifest):  # a node ended before it deleted the old lease
                    await self._leases.delete(older.lease)
                found[manifest] = _Held(replica, lease)
            await self._load_unpacked(found)
            self._held = found

    async def pulled(self) -> list[PulledImage]:
        return [
            PulledImage(image.name, image.target, self._pulls.of(image))
            for image in await self._client.images()
        ]

    @asynccontextmanager
    async def writing(
        self, image: PlatformImage, *, sources: Collection[str] = (), is_shared: bool = True
    ) -> AsyncIterator[ImageWriter]:
        lease = writing_lease(image, now=self._clock())
        self._written[lease.id] = self._written.get(lease.id, 0) + 1
        writer = ContainerdImageWriter(
            client=self._client, lease=lease, sources=sources, is_shared=is_shared
        )
        try:
            with suppress(AlreadyExists):  # an earlier process was writing it
                await self._leases.create(lease)
            yield writer
        finally:
            self._written[lease.id] -= 1
            if not self._written[lease.id]:
                del self._written[lease.id]
                with suppress(StoreUnavailable):  # load removes a leftover
                    await asyncio.shield(self._end_writing(writer, lease))

    async def hold(self, replica: Replica) -> None:
        image = replica.image
        async with self._lock:
            before = self._held.get(image.manifest)
            replica = dataclasses.replace(
                replica,
                names=remembered(replica.names),
                is_unpacked=replica.is_unpacked
                and before is not None
                and before.unpacked is not None,
            )
            unpacked = None
            lease = lease_of(replica, now=self._next_time())
            try:
                await self._leases.create(lease)
                for blob in image.blobs:
                    await self._leases.add(lease, blob.digest)
                await self._check(image)
                if replica.is_unpacked:
                    unpacked = await self._keep_unpacked(replica)
            except BaseException:
                with suppress(StoreUnavailable):  # load removes an unfinished lease
                    await asyncio.shield(self._leases.delete(lease, sync=True))
                raise
            self._held[image.manifest] = _Held(replica, lease, unpacked)
            if before is not None:
                self.on_change(before.replica)
            self.on_change(replica)
            if before is not None and before.unpacked is not None:
                await self._leases.delete(before.unpacked, sync=unpacked is None)
            if before is not None:
                await self._leases.delete(before.lease)

    async def unpack(self, manifest: Digest) -> None:
        if (held := self._held.get(manifest)) is None:
            raise ContentNotFound(f"no replica of {manifest} is held")
        if held.unpacked is not None:
            return
        async with self._unpacker.unpacking(held.replica.image), self._lock:
            if (held := self._held.get(manifest)) is None:
                raise ContentNotFound(f"the replica of {manifest} was released meanwhile")
            if held.unpacked is None:  # nobody else was quicker
                replica = dataclasses.replace(held.replica, is_unpacked=True)
                unpacked = await self._keep_unpacked(replica)
                self._held[manifest] = _Held(replica, held.lease, unpacked)

    async def release(self, manifest: Digest) -> int:
        async with self._lock:
            held = self._held.get(manifest)
            if held is None:
                return 0
            if held.unpacked is not None:
                await self._leases.delete(held.unpacked)
                packed = dataclasses.replace(held.replica, is_unpacked=False)
                self._held[manifest] = held = _Held(packed, held.lease)
            await self._leases.delete(held.lease, sync=True)
            del self._held[manifest]
            self.on_change(held.replica)
            left = await self._client.content()
        return sum(blob.size for blob in held.replica.image.blobs if blob.digest not in left)

    def images(self) -> dict[str, NamedImage]:
        """Return images with the replicas' tags, and one without a tag for each replica's key.

        Of two replicas with one tag, the one that was pulled last has it.
        """
        found: dict[str, NamedImage] = {}
        for held in self._held.values():
            replica = held.replica
            for name, pulled in replica.names.items():
                if name not in found or found[name].updated < pulled:
                    found[name] = _named(name, replica, pulled)
            found[replica.key] = _named(replica.key, replica, 0.0)
        return found

    async def _keep_unpacked(self, replica: Replica) -> Lease:
        """Make a lease for the snapshots of a replica, which are here. Raises StoreUnavailable."""
        lease = unpacked_lease(replica, now=self._next_time())
        try:
            await self._leases.create(lease)
            await self._leases.add(lease, replica.image.root.digest)
        except BaseException:
            with suppress(StoreUnavailable):  # load removes an unfinished lease
                await asyncio.shield(self._leases.delete(lease))
            raise
        return lease

    async def _load_unpacked(self, found: dict[Digest, _Held]) -> None:
        """Add the leases over snapshots to the replicas, and delete those without a replica."""
        await self._unpacker.drop_leftovers()
        for lease in sorted(await self._leases.list(UNPACKED), key=made_at):
            manifest = unpacked_manifest(lease, await self._leases.content(lease))
            held = found.get(manifest) if manifest is not None else None
            if manifest is None or held is None:
                await self._leases.delete(lease)
                continue
            if held.unpacked is not None:
                await self._leases.delete(held.unpacked)
            replica = dataclasses.replace(held.replica, is_unpacked=True)
            found[manifest] = _Held(replica, held.lease, lease)

    async def _end_writing(self, writer: ContainerdImageWriter, lease: Lease) -> None:
        try:
            await writer.discard_unfinished()
        except StoreUnavailable as error:
            log.info("unfinished image not discarded", lease=lease.id, error=str(error))
        await self._leases.delete(lease, sync=True)

    async def _drop_leftovers(self) -> None:
        """Delete the leases of writers that have ended long ago, with the ingests below them.

        A younger one stays: the image may be written again, and goes on where it stopped.
        """
        for lease in await self._leases.list(WRITING):
            if lease.id not in self._written and lease.created + RESUMABLE < self._clock():
                log.info("unfinished image dropped", lease=lease.id)
                await self._leases.delete(lease)

    async def _check(self, image: PlatformImage) -> None:
        """Raise ContentNotFound unless all blobs are here. They were leased before, so they stay.

        The other way round, a blob could be collected between the check and its lease.
        """
        for blob in image.blobs:
            record = await self._client.info(blob.digest)
            if record.size != blob.size:
                raise ContentNotFound(
                    f"{blob.digest} has {record.size} bytes here, not {blob.size}"
                )

    def _next_time(self) -> float:
        """Return the present time, later than the time of each earlier lease."""
        self._last = max(self._clock(), self._last + 0.001)
        return self._last


def _named(name: str, replica: Replica, pulled: float) -> NamedImage:
    return NamedImage(
        name=name, target=replica.image.root, created=pulled, updated=pulled, labels={}
    )
