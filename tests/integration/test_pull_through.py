"""Pulls by containerd, and by others, through peers: what is in the cluster comes from the
cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from spegel_py.oci import build
from spegel_py.oci.digest import Digest
from tests.integration.cluster import (
    PROMPT,
    blob_path,
    found,
    gone,
    manifest_path,
    metric,
    publish,
    registry_away,
    start_cluster,
    timed,
)
from tests.support.images import image
from tests.support.lab import Lab, Node
from tests.support.processes import run

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab() -> AsyncIterator[Lab]:
    """Three nodes, shared by the tests of this module: each has images of its own."""
    async with start_cluster(3) as lab:
        yield lab


async def pull(node: Node, reference: str, *, with_cri: bool) -> None:
    if with_cri:
        await node.cri.pull(reference)
    else:
        await node.ctr_pull(reference)


@pytest.mark.parametrize("by_digest", [False, True], ids=["tag", "digest"])
@pytest.mark.parametrize("with_cri", [True, False], ids=["CRI", "ctr"])
async def test_what_one_node_pulled_the_others_get_from_it(
    lab: Lab, with_cri: bool, by_digest: bool
) -> None:
    """With the registry gone, two other nodes pull all of an image, each byte of it from a peer and
    each pull a hit.
    """
    app = image(f"first/{with_cri}/{by_digest}", layers=3, size=200_000)
    tag = lab.name(f"test/app:first-{with_cri}-{by_digest}".lower())
    reference = f"{tag.rpartition(':')[0]}@{app.root.digest}" if by_digest else tag
    one, *others = lab.nodes
    await publish(lab, tag, app, one)
    async with registry_away(lab):
        for node in others:
            hits = await metric(node, "spegel_mirror_requests_total", cache="hit")
            misses = await metric(node, "spegel_mirror_requests_total", cache="miss")
            carried = await metric(node, "spegel_served_bytes_total", source="peer")
            await pull(node, reference, with_cri=with_cri)
            assert reference in await node.daemon.ctr("images", "ls", "-q")
            assert await metric(node, "spegel_mirror_requests_total", cache="hit") >= hits + len(
                app.blobs
            )
            assert await metric(node, "spegel_mirror_requests_total", cache="miss") == misses
            carried = await metric(node, "spegel_served_bytes_total", source="peer") - carried
            assert carried >= sum(len(blob.data) for blob in app.blobs)


@pytest.mark.parametrize(
    ("seed", "app", "is_docker"),
    [
        ("index", image("index", platforms=("amd64", "arm64")), False),
        ("docker", image("docker"), True),
        ("layers", image("layers", layers=21, size=20_000), False),
    ],
    ids=["several platforms", "Docker schema 2", "21 layers"],
)
async def test_images_of_every_shape_pass_through_peers(
    lab: Lab, seed: str, app: build.Image, is_docker: bool
) -> None:
    """An index, a Docker image and one of many layers are pulled from a peer alone, and come out
    the same.
    """
    reference = lab.name(f"test/app:{seed}")
    one, two, _ = lab.nodes
    await publish(lab, reference, app, one, is_docker=is_docker)
    async with registry_away(lab):
        await two.cri.pull(reference)
    assert await two.cri.status(reference) == await one.cri.status(reference)
    kind = (await two.get(manifest_path(reference), method="HEAD")).headers["content-type"]
    assert kind == (build.DOCKER.manifest if is_docker else app.media_type)


async def test_all_platforms_of_an_index_pass_through_peers(lab: Lab) -> None:
    """Where a node holds every platform, another pulls every platform from it."""
    app = image("platforms", platforms=("amd64", "arm64", "s390x"))
    reference = lab.name("test/app:platforms")
    one, two, _ = lab.nodes
    await lab.registry.push(reference, app)
    await one.ctr_pull(reference, "--all-platforms")
    await found(two, reference)
    async with registry_away(lab):
        await two.ctr_pull(reference, "--all-platforms")
    held = set((await two.daemon.ctr("content", "ls", "-q")).split())
    assert {str(blob.digest) for blob in app.blobs} <= held


async def test_what_nobody_has_is_said_at_once_and_comes_from_upstream(lab: Lab) -> None:
    """A node answers 404 promptly, for tags, manifests and blobs, and containerd's pull goes on at
    the registry.
    """
    app = image("nobody")
    reference = lab.name("test/app:nobody")
    await lab.registry.push(reference, app)
    node = lab.nodes[1]
    for path in (manifest_path(reference), manifest_path(app.root), *map(blob_path, app.blobs[1:])):
        for method in ("HEAD", "GET"):
            answer, seconds = await timed(node, path, method)
            assert answer.status == 404
            assert seconds < PROMPT
    assert lab.registry.requests() == []
    await node.cri.pull(reference)
    blobs = [one.path for one in lab.registry.requests("GET") if "/blobs/" in one.path]
    assert len(blobs) == len(app.blobs) - 1


async def test_a_removed_image_is_not_found_any_more(lab: Lab) -> None:
    """Two seconds after its only holder removed an image the others answer 404; containerd's pull
    goes upstream.
    """
    app = image("removed")
    reference = lab.name("test/app:removed")
    one, two, _ = lab.nodes
    await publish(lab, reference, app, one)
    await one.cri.remove(reference)
    paths = [manifest_path(reference), manifest_path(app.root), *map(blob_path, app.blobs[1:])]
    async with asyncio.timeout(2.0):
        await asyncio.gather(*(gone(two, path, deadline=2.0) for path in paths))
    await two.cri.pull(reference)
    assert lab.registry.requests("GET")


async def test_an_imported_image_is_pulled_by_others(lab: Lab) -> None:
    """An image that came from no registry, and has no label of one, is pulled by tag and by
    digest.
    """
    app = image("imported")
    reference = lab.name("test/imported:1")
    one, two, three = lab.nodes
    await one.daemon.load({reference: app})
    labels = {
        line.split()[0]: line for line in (await one.daemon.ctr("content", "ls")).splitlines()[1:]
    }
    assert not any("distribution.source" in labels[str(blob.digest)] for blob in app.blobs)
    async with registry_away(lab):
        await found(two, reference, app.blobs[1:])
        await two.cri.pull(reference)
        await three.cri.pull(f"{lab.name('test/imported')}@{app.root.digest}")
    held = await asyncio.gather(*(node.daemon.ctr("content", "ls", "-q") for node in (two, three)))
    assert all(set(listed.split()) >= {str(blob.digest) for blob in app.blobs} for listed in held)


async def test_skopeo_copies_through_the_mirror(lab: Lab, tmp_path: Path) -> None:
    """A client that names no registry gets an image by its digest, over a node that does not hold
    it, byte for byte.
    """
    app = image("skopeo", layers=3, size=100_000)
    reference = lab.name("test/app:skopeo")
    one, two, _ = lab.nodes
    await publish(lab, reference, app, one)
    source = f"docker://{two.address}:5000/test/app@{app.root.digest}"
    async with registry_away(lab):
        await run(
            *two.namespace.prefix,
            *(
                "skopeo",
                "--insecure-policy",
                "copy",
                "-q",
                "--src-tls-verify=false",
                source,
                f"dir:{tmp_path}",
            ),
        )
    copied = {path.read_bytes() for path in tmp_path.iterdir() if path.name != "version"}
    assert {Digest.of(data) for data in copied} == {blob.digest for blob in app.blobs}
