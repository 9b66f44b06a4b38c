"""Replicas as leases of a real containerd: what the kubelet sees, crashes, and clean-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from spegel_py.oci.build import Image
from spegel_py.store.base import PlatformImage, Replica, ReplicaReason
from spegel_py.store.containerd import Client, ContainerdStore
from spegel_py.store.walker import Walker
from tests.support.containerd import Daemon, running_daemon
from tests.support.images import child, image

pytestmark = [pytest.mark.root, pytest.mark.containerd]

NAME = "registry.example/team/app:1"
WEEK = 7 * 86_400.0


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
