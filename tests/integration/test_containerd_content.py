"""The shared content: of one namespace, also without labels, and layer by layer if possible."""

from __future__ import annotations

import asyncio
import re

import pytest

from spegel_py.oci import build
from tests.integration.cluster import (
    blob_path,
    found,
    heal,
    limited,
    manifest_path,
    registry_away,
    start_cluster,
    state,
)
from tests.integration.observer import keys, observing
from tests.support.images import image, random_layer
from tests.support.lab import REGISTRY, start_lab, until

pytestmark = [pytest.mark.root, pytest.mark.containerd]


async def test_the_images_of_one_namespace_are_shared_and_those_of_others_are_not() -> None:
    """With --containerd-namespace only that namespace's images are announced, imported ones too."""
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
            assert (
                await observer.advertised(holder, keys(lab.name("test/other:1"), image("other")))
                == set()
            )


async def test_the_images_of_several_namespaces_are_shared_as_those_of_one() -> None:
    """As on a machine with Kubernetes and Docker, also across an outage of containerd."""
    kube, docker, both = image("kube"), image("docker"), image("both")
    async with start_lab(nodes=2) as lab:
        holder, puller = lab.nodes
        names = {each: lab.name(f"test/{each}:1") for each in ("kube", "docker", "both")}
        await holder.daemon.load({names["kube"]: kube, names["both"]: both})
        await holder.daemon.load({names["docker"]: docker}, namespace="moby")
        await holder.daemon.load({names["both"]: image("older")}, namespace="moby")
        await heal(lab, containerd_more_namespaces="moby")
        everything = (
            keys(names["kube"], kube)
            | keys(names["docker"], docker)
            | keys(names["both"], both)
            | {str(blob.digest) for blob in image("older").blobs}
        )
        async with observing(lab) as observer:
            await observer.sees(holder, everything)
            async with registry_away(lab):
                for reference in names.values():
                    await puller.ctr_pull(reference)
            assert str(both.root.digest) in await puller.daemon.ctr("images", "ls")
            assert "not shared" not in str((await state(holder))["store"])
            await holder.daemon.kill()
            await holder.daemon.start()
            await holder.daemon.ctr("images", "rm", "--sync", names["docker"], namespace="moby")
            await observer.sees(holder, everything - keys(names["docker"], docker))


async def test_imported_images_are_shared_as_pulled_ones_are() -> None:
    """An image of `ctr images import` has no registry label. It is announced and pulled all the
    same.
    """
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


async def test_filtered_content_is_not_given_under_any_name() -> None:
    """The repository of its pull decides. A layer shared with a public image is served and
    announced.
    """
    shared, own, other = (random_layer(name, 4096) for name in ("shared", "own", "other"))
    secret, public = build.image([shared, own]), build.image([shared, other])
    filters = f"^{re.escape(REGISTRY)}/test/secret$"
    async with start_cluster(2, registry_filters=filters) as lab, observing(lab) as observer:
        holder, asking = lab.nodes
        hidden, shown = lab.name("test/secret:1"), lab.name("test/public:1")
        await lab.registry.push(hidden, secret)
        await lab.registry.push(shown, public)
        await holder.cri.pull(hidden)
        await holder.daemon.ctr("images", "tag", hidden, lab.name("test/retagged:1"))
        await holder.cri.pull(shown)
        await observer.sees(holder, keys(shown, public))
        alone = [blob for blob in secret.blobs if blob not in public.blobs]
        everything = keys(hidden, secret) | keys(shown, public) | {lab.name("test/retagged:1")}
        assert await observer.advertised(holder, everything) == keys(shown, public)
        paths = [
            manifest_path(lab.name("test/retagged:1")),
            *(manifest_path(secret.root, name) for name in ("test/secret", "test/public", "x")),
            *(blob_path(blob, name) for blob in alone[1:] for name in ("test/secret", "x")),
        ]
        for path in paths:
            for target in {path, path.partition("?")[0]} if "sha256" in path else {path}:
                assert (await holder.get(target)).status == 404, target
                assert (await asking.get(target)).status == 404, target
        for blob in public.blobs[1:]:
            assert (await asking.get(blob_path(blob, "test/public"))).status == 200


async def test_a_crowd_shares_what_is_being_pulled_with_filters_too() -> None:
    """A layer that is still being pulled belongs to the image whose manifest names it."""
    async with start_cluster(2, registry_filters="^nothing$") as lab:
        reference, app = lab.name("test/app:crowd"), image("crowd", layers=1, size=8_000_000)
        await lab.registry.push(reference, app)
        async with lab.registry.namespace.throttled("50mbit", burst="256kb"):
            await asyncio.gather(*(node.cri.pull(reference) for node in lab.nodes))
        layers = [one for one in lab.registry.requests("GET") if one.size >= 8_000_000]
        assert len(layers) == 1


async def test_each_layer_is_told_as_it_is_complete() -> None:
    """From containerd 2.1 on peers find the first layer while the second is pulled; before, with
    the image.
    """
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
