"""Replicas as leases of a real containerd: what the kubelet sees, crashes, and clean-up."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spegel_py.errors import StoreFull
from spegel_py.oci.build import Image
from spegel_py.oci.manifest import Child, children
from spegel_py.store.base import Descriptor, ImageWriter, PlatformImage, Replica, ReplicaReason
from spegel_py.store.containerd import Client, ContainerdStore
from spegel_py.store.walker import Walker
from tests.support.containerd import Daemon, running_daemon
from tests.support.images import child, image
from tests.support.processes import run, until

pytestmark = [pytest.mark.root, pytest.mark.containerd]

NAME = "registry.example/team/app:1"
WEEK = 7 * 86_400.0
MIB = 1024 * 1024


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running_daemon() as made:
        yield made


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[Client]:
    async with Client(socket=daemon.socket) as made:
        yield made


async def content_of(store: ContainerdStore, one: Image) -> PlatformImage:
    [found] = (await Walker(open=store.open).images(child(one), store.stat)).values()
    return found


async def hold(store: ContainerdStore, one: Image) -> Replica:
    replica = Replica(
        image=await content_of(store, one),
        names={NAME: 1.0},
        reason=ReplicaReason.FLOOR,
        used=1.0,
        expires=round(time.time() + WEEK),
    )
    await store.replicas.hold(replica)
    return replica


async def our_leases(daemon: Daemon) -> list[str]:
    listed = (await daemon.ctr("leases", "ls", "-q")).split()
    return [line for line in listed if line.startswith("spegel-py/")]


async def test_a_lease_that_a_crash_left_unfinished_is_removed(
    daemon: Daemon, client: Client
) -> None:
    """A process that was killed in the middle leaves a lease with a part of the blobs."""
    one = image()
    await daemon.load({NAME: one})
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    replica = await hold(store, one)
    [whole] = await our_leases(daemon)
    unfinished = f"{whole.rpartition('/')[0]}/9999999999999"
    labels = {"spegel-py/blobs": "99", "spegel-py/manifest": str(replica.image.manifest)}
    await daemon.ctr(
        "leases", "create", "--id", unfinished, *(f"{key}={text}" for key, text in labels.items())
    )
    again = ContainerdStore(client=client, content_path=daemon.content_path)
    await again.replicas.load()
    assert again.replicas.held() == {replica.image.manifest: replica}
    assert await our_leases(daemon) == [whole]


async def test_a_replica_outlives_a_crash_of_containerd(daemon: Daemon, client: Client) -> None:
    """kill -9 and a new start, at which containerd collects: the content is still there."""
    one = image()
    await daemon.load({NAME: one})
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    await hold(store, one)
    await daemon.ctr("images", "rm", "--sync", NAME)
    await daemon.kill()
    await daemon.start()
    await daemon.load({"registry.example/team/other:1": image("other")})
    await daemon.ctr("images", "rm", "--sync", "registry.example/team/other:1")
    await store.replicas.load()
    [replica] = store.replicas.held().values()
    for blob in one.blobs:
        await store.stat(blob.digest)
    assert await store.replicas.release(replica.image.manifest) == replica.image.size
    assert await our_leases(daemon) == []
    assert await client.content() == {}


async def test_containerd_lists_no_image_for_a_replica(daemon: Daemon, client: Client) -> None:
    """So the kubelet neither counts nor collects it."""
    one = image()
    await daemon.load({NAME: one})
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    await hold(store, one)
    await daemon.ctr("images", "rm", "--sync", NAME)
    assert await client.images() == []
    assert set(await store.images()) == {NAME, *(r.key for r in store.replicas.held().values())}


async def test_a_hold_beside_a_removal_is_whole_or_refused(daemon: Daemon, client: Client) -> None:
    """A garbage collection at any moment leaves no replica with missing content."""
    one = image(layers=4)
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    for _ in range(8):
        await daemon.load({NAME: one})
        content = await content_of(store, one)
        held, _ = await asyncio.gather(
            hold(store, one),
            daemon.ctr("images", "rm", "--sync", NAME),
            return_exceptions=True,
        )
        records = await client.content()
        present = {blob.digest for blob in content.blobs} <= records.keys()
        assert present == (not isinstance(held, BaseException)), held
        await store.replicas.release(content.manifest)
        assert await client.content() == {}


async def test_a_disk_that_fills_leaves_nothing_of_the_image() -> None:
    """The error says that there is no room, and the bytes that were written are gone."""
    one = image(layers=1, size=24 * MIB)
    [layer] = [each for each in children(one.root.data) if each.size > MIB]
    data = next(blob.data for blob in one.blobs if blob.digest == layer.digest)
    with tempfile.TemporaryDirectory(prefix="spegel-") as folder:
        await run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder)
        full = Daemon(folder=Path(folder), has_cri=False)
        try:
            await full.start()
            async with Client(socket=full.socket) as client:
                store = ContainerdStore(client=client, content_path=full.content_path)
                content = PlatformImage(
                    manifest=one.root.digest,
                    root=child(one),
                    blobs=frozenset({Descriptor(layer.digest, layer.size)}),
                )
                with pytest.raises(StoreFull):
                    async with store.replicas.writing(content) as writer:
                        await _write(writer, layer, data)
                assert await client.content() == {}
                assert await our_leases(full) == []
                assert not list((full.content_path / "ingest").iterdir())
        finally:
            await full.stop()
            await run("umount", folder)


async def _write(writer: ImageWriter, blob: Child, data: bytes) -> None:
    async with writer.open(blob) as content:
        for at in range(0, len(data), MIB):
            await content.write(data[at : at + MIB])
        await content.commit()


async def test_no_ingest_is_left_behind(daemon: Daemon, client: Client) -> None:
    """Whether an image is held, given up, or its writer cancelled in the middle of a blob."""
    one = image(layers=1, size=8 * MIB)
    [layer] = [each for each in children(one.root.data) if each.size > MIB]
    data = next(blob.data for blob in one.blobs if blob.digest == layer.digest)
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    content = PlatformImage(
        manifest=one.root.digest,
        root=child(one),
        blobs=frozenset({Descriptor(layer.digest, layer.size)}),
    )

    async def write_slowly() -> None:
        async with store.replicas.writing(content) as writer, writer.open(layer) as part:
            for at in range(0, len(data), MIB):
                await part.write(data[at : at + MIB])
                await asyncio.sleep(0.01)

    for delay in (0.01, 0.03, 0.05, 1.0):
        task = asyncio.create_task(write_slowly())
        await asyncio.wait([task], timeout=delay)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: _is_clean(daemon, client))


async def test_a_writer_that_is_cancelled_while_its_lease_is_made_leaves_none(
    daemon: Daemon, client: Client
) -> None:
    """A slow daemon makes the lease after the cancellation."""
    one = image()
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    content = PlatformImage(
        manifest=one.root.digest,
        root=child(one),
        blobs=frozenset({Descriptor(blob.digest, len(blob.data)) for blob in one.blobs}),
    )

    async def write() -> None:
        async with store.replicas.writing(content):
            pass

    await client.version()  # connected
    daemon.process.send(signal.SIGSTOP)
    task = asyncio.create_task(write())
    await asyncio.wait([task], timeout=0.2)
    task.cancel()
    await asyncio.wait([task], timeout=0.2)
    daemon.process.send(signal.SIGCONT)
    await asyncio.wait([task])
    await client.version()
    assert await our_leases(daemon) == []


async def _is_clean(daemon: Daemon, client: Client) -> bool:
    folder = daemon.content_path / "ingest"  # containerd makes it with its first ingest
    ingests = list(folder.iterdir()) if folder.exists() else []
    return not ingests and not await our_leases(daemon) and await client.content() == {}
