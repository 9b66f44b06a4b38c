"""Replicas that are unpacked ahead of their pulls, in a real containerd beside a real registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from spegel_py.errors import ManifestInvalid, StoreUnavailable, UnpackUnsupported
from spegel_py.oci import build
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import children
from spegel_py.store.base import Descriptor, PlatformImage, Replica, ReplicaReason
from spegel_py.store.containerd import Client, ContainerdStore
from spegel_py.store.containerd.image_unpacker import find_snapshotter
from tests.support.containerd import Daemon, running_daemon
from tests.support.images import child, image, random_layer
from tests.support.lab import Lab, start_lab
from tests.support.processes import until

pytestmark = [pytest.mark.root, pytest.mark.containerd]

DAY = 86_400.0
MIB = 1024 * 1024


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with start_lab(nodes=1) as made:
        yield made


@asynccontextmanager
async def opened(daemon: Daemon, **settings: str) -> AsyncIterator[ContainerdStore]:
    """Open a daemon as a new node does."""
    async with Client(socket=daemon.socket) as client:
        store = ContainerdStore(client=client, content_path=daemon.content_path, **settings)
        await store.replicas.load()
        yield store


async def held(store: ContainerdStore, one: Image) -> Digest:
    """Write an image, packed, and keep it as a replica; return its manifest's digest."""
    now = time.time()
    replica = Replica(
        image=PlatformImage(
            manifest=one.root.digest,
            root=child(one),
            blobs=frozenset(Descriptor(blob.digest, len(blob.data)) for blob in one.blobs),
        ),
        names={},
        reason=ReplicaReason.PREHEAT,
        used=now,
        expires=round(now + DAY),
    )
    below = children(one.root.data)
    async with store.replicas.writing(replica.image) as writer:
        for each in (*below, child(one)):
            [data] = [blob.data for blob in one.blobs if blob.digest == each.digest]
            async with writer.open(each, children=below if each == child(one) else ()) as content:
                await content.write(data)
                await content.commit()
        await store.replicas.hold(replica)
    return one.root.digest


async def snapshots(daemon: Daemon) -> list[str]:
    lines = (await daemon.ctr("snapshots", "ls")).splitlines()
    return sorted(line.split()[0] for line in lines[1:])


async def leases(daemon: Daemon) -> list[str]:
    """Return the beginnings of our leases."""
    names = (await daemon.ctr("leases", "ls", "-q")).split()
    return sorted(name.split("/")[1] for name in names if name.startswith("spegel-py/"))


async def assert_nothing_is_left(daemon: Daemon) -> None:
    async def is_empty() -> bool:
        has_leases = await leases(daemon)
        return not has_leases and not await snapshots(daemon) and not await daemon.content()

    await until(is_empty)


async def test_a_pull_of_an_unpacked_replica_moves_and_unpacks_nothing(lab: Lab) -> None:
    """The kubelet sees no image before. It removes its own, and the next pull is as short."""
    [node] = lab.nodes
    one, reference = image(layers=3, size=MIB), lab.name("test/unpacked:1")
    await lab.registry.push(reference, one)
    async with opened(node.daemon) as store:
        manifest = await held(store, one)
        await store.replicas.unpack(manifest)
        assert await leases(node.daemon) == ["content", "unpacked"]
        unpacked = await snapshots(node.daemon)
        assert len(unpacked) == 3
        assert await node.cri.images() == []
        lab.registry.forget()
        for _ in range(2):
            await node.cri.pull(reference)
            assert await snapshots(node.daemon) == unpacked
            await node.cri.remove(reference)
        assert lab.registry.requests("GET") == []
        assert await snapshots(node.daemon) == unpacked
        await store.replicas.release(manifest)
    await assert_nothing_is_left(node.daemon)


async def test_unpacking_beside_a_pull_of_the_same_image(lab: Lab) -> None:
    """Whoever is quicker with a layer, both succeed, and no copy of it is left."""
    [node] = lab.nodes
    async with opened(node.daemon) as store:
        for number in range(4):
            one = image(f"race/{number}", layers=4, size=MIB)
            reference = lab.name(f"test/race:{number}")
            await lab.registry.push(reference, one)
            manifest = await held(store, one)
            await asyncio.gather(node.cri.pull(reference), store.replicas.unpack(manifest))
            assert len(await snapshots(node.daemon)) == 4
            await store.replicas.release(manifest)
            assert len(await snapshots(node.daemon)) == 4
            await node.cri.remove(reference)
            await assert_nothing_is_left(node.daemon)


async def test_a_crash_of_containerd_in_the_middle(lab: Lab) -> None:
    """What was half unpacked goes at the next start, and the next try succeeds."""
    [node] = lab.nodes
    one, reference = image(layers=5, size=16 * MIB), lab.name("test/crash:1")
    await lab.registry.push(reference, one)
    async with opened(node.daemon) as store:
        manifest = await held(store, one)
        task = asyncio.create_task(store.replicas.unpack(manifest))

        async def has_begun() -> bool:
            return len(await snapshots(node.daemon)) >= 2

        await until(has_begun, pause=0.02)
        assert not task.done()
        await node.daemon.kill()
        with pytest.raises(StoreUnavailable):
            await task
        await node.daemon.start()
        assert await leases(node.daemon) == ["content", "unpacking"]
    async with opened(node.daemon) as store:
        assert await leases(node.daemon) == ["content"]
        assert await snapshots(node.daemon) == []
        await store.replicas.unpack(manifest)
        lab.registry.forget()
        await node.cri.pull(reference)
        assert lab.registry.requests("GET") == []
        assert len(await snapshots(node.daemon)) == 5
        await node.cri.remove(reference)
        await store.replicas.release(manifest)
    await assert_nothing_is_left(node.daemon)


async def test_a_cancelled_or_impossible_unpacking_leaves_no_snapshot() -> None:
    """A layer that is no archive, another one than the config says, or a cancellation."""
    whole, other = random_layer("a", MIB), random_layer("b", 8 * MIB)
    no_archive = build.Layer(build.Blob.of(b"no archive"), whole.diff_id)
    mistaken = build.Layer(other.blob, whole.diff_id)
    async with running_daemon() as daemon, opened(daemon) as store:
        for last in (no_archive, mistaken):
            wrong = build.image([whole, last])
            manifest = await held(store, wrong)
            with pytest.raises(ManifestInvalid):
                await store.replicas.unpack(manifest)
            assert await snapshots(daemon) == []
            await store.replicas.release(manifest)
        one = build.image([whole, other])
        manifest = await held(store, one)
        for delay in (0.0, 0.01, 0.03):
            task = asyncio.create_task(store.replicas.unpack(manifest))
            await asyncio.wait([task], timeout=delay)
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                assert await leases(daemon) == ["content"]
                assert await snapshots(daemon) == []
        await store.replicas.release(manifest)
        await assert_nothing_is_left(daemon)


async def test_the_snapshotter_is_found(lab: Lab) -> None:
    """1.x tells it. On 2.x a pulled image shows it; before the first one, the setting counts."""
    [node] = lab.nodes
    reference = lab.name("test/found:1")
    await lab.registry.push(reference, image())
    async with Client(socket=node.daemon.socket) as client:
        is_told = await node.daemon.version() < (2, 0)
        assert await find_snapshotter(client, default="nydus") == (
            "overlayfs" if is_told else "nydus"
        )
        await node.cri.pull(reference)
        assert await find_snapshotter(client, default="nydus") == "overlayfs"


async def test_a_snapshotter_that_fetches_lazily_is_left_alone() -> None:
    """Nothing is unpacked, and the replica stays as it was."""
    async with running_daemon() as daemon, opened(daemon, snapshotter="stargz") as store:
        manifest = await held(store, image())
        with pytest.raises(UnpackUnsupported, match="stargz"):
            await store.replicas.unpack(manifest)
        assert await leases(daemon) == ["content"]
