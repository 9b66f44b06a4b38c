"""Following a containerd with real pulls, as Kubernetes makes them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from spegel_py.store.containerd import Client, ContainerdStore, ContainerdWatcher
from tests.contract.test_watcher import Listener, keys, listening
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab

pytestmark = [pytest.mark.root, pytest.mark.containerd]

APP = image(layers=3, size=200_000, is_runnable=True)


@asynccontextmanager
async def following(node: Node, *, is_mounted: bool) -> AsyncIterator[Listener]:
    async with Client(socket=node.daemon.socket) as client:
        store = ContainerdStore(
            client=client, content_path=node.daemon.content_path if is_mounted else None
        )
        async with listening(ContainerdWatcher(store=store)) as listener:
            await listener.until(lambda: bool(listener.events))
            yield listener


@pytest.mark.parametrize("is_mounted", [True, False], ids=["path", "gRPC"])
async def test_a_pull_is_told_at_once_and_its_removal_within_two_seconds(
    lab: Lab, is_mounted: bool
) -> None:
    """One CRI pull makes three names and one tag key. Removing the image withdraws everything."""
    reference = lab.name("test/app:1")
    await lab.registry.push(reference, APP)
    node = lab.nodes[0]
    async with following(node, is_mounted=is_mounted) as listener:
        await node.cri.pull(reference)
        pulled = time.monotonic()
        await listener.until(lambda: listener.keys == keys(reference, APP))
        assert time.monotonic() - pulled < 1.0
        await node.cri.remove(reference)
        removed = time.monotonic()
        await listener.until(lambda: listener.keys == set())
        assert time.monotonic() - removed < 3.0  # one second for the collector, two for this node


@pytest.mark.parametrize("is_mounted", [True, False], ids=["path", "gRPC"])
async def test_layers_that_are_discarded_after_unpacking_are_withdrawn(is_mounted: bool) -> None:
    """With discard_unpacked_layers manifest and config stay. Layers go without an event."""
    async with start_lab(nodes=1, discards_layers=True) as lab:
        reference = lab.name("test/app:1")
        await lab.registry.push(reference, APP)
        layers = {str(blob.digest) for blob in APP.blobs[2:]}
        async with following(lab.nodes[0], is_mounted=is_mounted) as listener:
            await lab.nodes[0].cri.pull(reference)
            await listener.until(lambda: listener.keys == keys(reference, APP) - layers)


async def test_a_platform_of_an_index_is_told_without_the_others(lab: Lab) -> None:
    """Content that was not pulled is not announced."""
    reference = lab.name("test/app:1")
    many = image("many", platforms=("amd64", "arm64"), is_runnable=True)
    await lab.registry.push(reference, many)
    async with following(lab.nodes[0], is_mounted=True) as listener:
        await lab.nodes[0].cri.pull(reference)
        await listener.until(lambda: reference in listener.keys)
        assert str(many.root.digest) in listener.keys
        assert (
            len(listener.keys) == 1 + 1 + 5
        )  # tag, index; manifest, config and three layers of one platform


async def test_a_pull_makes_a_tag_younger_and_a_label_does_not(lab: Lab) -> None:
    """The digest is the same; the pull is by the CRI, and by ctr, which drops the CRI's label."""
    reference = lab.name("test/app:again")
    await lab.registry.push(reference, APP)
    node = lab.nodes[0]
    async with following(node, is_mounted=True) as listener:
        await node.cri.pull(reference)
        await listener.until(lambda: reference in listener.pulled)
        for pull in (node.cri.pull, node.ctr_pull, node.cri.pull):
            before = listener.pulled[reference]
            await pull(reference)
            written = await _written(node, reference)  # a CRI pull writes its record more than once
            assert written > before
            await listener.until(partial(_is_of, listener, reference, written))
        before = listener.pulled[reference]
        await node.daemon.ctr("images", "label", reference, "team=one")
        other = lab.name("test/app:other")  # announced after the label
        await node.daemon.ctr("images", "tag", reference, other)
        await listener.until(lambda: other in listener.pulled)
        assert listener.pulled[reference] == before


async def _written(node: Node, reference: str) -> float:
    """Return the Unix time of containerd's last write of the image's record."""
    async with Client(socket=node.daemon.socket) as client:
        return (await client.image(reference)).updated


def _is_of(listener: Listener, reference: str, written: float) -> bool:
    return listener.pulled[reference] == written
