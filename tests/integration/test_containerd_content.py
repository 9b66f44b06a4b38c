"""Which content is shared: of one namespace alone, without labels too, and layer by layer where containerd tells."""

from __future__ import annotations

import asyncio

import pytest

from spegel_py.oci import build
from tests.images import image, random_layer
from tests.integration.cluster import blob_path, found, heal, limited, manifest_path, registry_away, start_cluster
from tests.integration.observer import keys, observing
from tests.lab import start_lab, until

pytestmark = [pytest.mark.root, pytest.mark.containerd]


async def test_the_images_of_one_namespace_are_shared_and_those_of_others_are_not() -> None:
    """With --containerd-namespace images of that namespace are told, imported ones too; of k8s.io nothing is given."""
    ours, theirs = image("ours"), image("theirs")
    async with start_lab(nodes=2) as lab:
        holder, puller = lab.nodes
        reference, other = lab.name("test/ours:1"), lab.name("test/theirs:1")
        await holder.daemon.load({reference: ours}, namespace="team")
        await holder.daemon.load({other: theirs})
        await heal(lab, containerd_namespace="team")
        async with observing(lab) as observer:
            await observer.sees(holder, keys(reference, ours))
            late = image("late")
            await holder.daemon.load({lab.name("test/late:1"): late}, namespace="team")
            await observer.sees(holder, keys(lab.name("test/late:1"), late))
            await holder.daemon.load({lab.name("test/other:1"): image("other")})
            assert await observer.advertised(holder, keys(other, theirs)) == set()
            for path in (manifest_path(theirs.root), *map(blob_path, theirs.blobs[1:])):
                assert (await holder.get(path)).status == 404
            async with registry_away(lab):
                await puller.ctr_pull(reference)
            assert await observer.advertised(holder, keys(lab.name("test/other:1"), image("other"))) == set()


async def test_imported_images_are_shared_as_pulled_ones_are() -> None:
    """An image of `ctr images import` has no label of a registry, and is told and pulled by others all the same."""
    app = image("imported")
    async with start_cluster(2) as lab, observing(lab) as observer:
        holder, puller = lab.nodes
        reference = lab.name("test/imported:1")
        await holder.daemon.load({reference: app})
        assert "distribution.source" not in await holder.daemon.ctr("content", "ls")
        await observer.sees(holder, keys(reference, app))
        async with registry_away(lab):
            await puller.cri.pull(reference)
        await observer.sees(puller, keys(reference, app))


async def test_each_layer_is_told_as_it_is_complete() -> None:
    """From containerd 2.1 on peers find the first layer while the second is being pulled; before, with the image."""
    first, second = random_layer("first", 200_000), random_layer("second", 8_000_000)
    app = build.image([first, second])
    async with start_cluster(2) as lab:
        holder, other = lab.nodes
        reference = lab.name("test/app:layers")
        await lab.registry.push(reference, app)
        pull = asyncio.create_task(holder.cri.pull(reference))
        async with limited(holder, "10mbit"):  # the second layer takes six seconds
            path = holder.daemon.path(first.blob.digest)

            async def is_committed() -> bool:
                return path.exists()

            async def is_found() -> bool:
                return (await other.get(blob_path(first.blob), method="HEAD")).status == 200

            await until(is_committed)
            if await holder.daemon.version() >= (2, 1):
                await until(is_found, deadline=3.0)
            assert not pull.done()
        await pull
        await found(other, reference, app.blobs[1:])
