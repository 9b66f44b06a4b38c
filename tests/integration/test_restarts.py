"""Nodes that come back, stand alone, or hold damaged content."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from spegel_py.inflight.rules import InFlightRules
from spegel_py.oci.build import Blob
from tests.integration.cluster import (
    PROMPT,
    blob_path,
    found,
    heal,
    manifest_path,
    publish,
    registry_away,
    start_cluster,
    timed,
    told,
)
from tests.support.images import image
from tests.support.lab import Lab, Node

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Lab]:
    async with start_cluster(3) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(cluster: Lab) -> Lab:
    """Three nodes, everything of which runs again before each test."""
    await heal(cluster)
    return cluster


# Coming back


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
async def test_a_node_that_restarts_is_the_same_peer_and_is_found_again(
    lab: Lab, number: int
) -> None:
    """Started again with its data directory a node has its identity still, and tells anew what it
    holds.
    """
    app = image(f"restarted/{number}")
    reference = lab.name(f"test/app:restarted-{number}")
    holder, other, puller = lab.nodes
    await publish(lab, reference, app, holder)
    before = (await other.get(manifest_path(reference))).headers["x-spegel-peer"]
    assert holder.spegel
    await holder.spegel.end(number)
    await heal(lab)
    async with registry_away(lab):
        await found(other, reference, app.blobs[1:])
        assert (await other.get(manifest_path(reference))).headers["x-spegel-peer"] == before
        await puller.cri.pull(reference)


async def test_a_containerd_that_dies_on_a_serving_node(lab: Lab) -> None:
    """While containerd is dead its content is served from the disk; when it is back, what it gets
    is told again.
    """
    app, later = image("kept"), image("later")
    reference, second = lab.name("test/app:kept"), lab.name("test/app:later")
    holder, _, puller = lab.nodes
    await publish(lab, reference, app, holder)
    await holder.daemon.kill()
    async with registry_away(lab):
        await puller.cri.pull(f"{lab.name('test/app')}@{app.root.digest}")
    answer, seconds = await timed(holder, manifest_path(lab.name("test/app:unknown")))
    assert answer.status == 404
    assert seconds < PROMPT
    await holder.daemon.start()
    await publish(lab, second, later, holder)


async def test_a_node_without_peers_serves_its_own_and_gets_in_nobody_s_way(lab: Lab) -> None:
    """Alone, a node answers with its own content and else 404 promptly; its containerd pulls from
    the registry.
    """
    app, other = image("own"), image("other")
    reference, second = lab.name("test/app:own"), lab.name("test/app:other")
    node = lab.nodes[2]
    assert node.spegel
    await node.spegel.end()
    await node.start_spegel(static_bootstrap_peers=None, router_addr="127.0.0.1:5001")
    try:
        assert (await node.get("/readyz")).status == 500
        await lab.registry.push(reference, app)
        await lab.registry.push(second, other)
        await node.cri.pull(reference)
        assert lab.registry.requests("GET")
        for path in (
            manifest_path(reference),
            manifest_path(app.root),
            *map(blob_path, app.blobs[1:]),
        ):
            answer, _ = await timed(node, path)
            assert answer.status == 200
            assert "x-spegel-peer" not in answer.headers
        for path in (
            manifest_path(second),
            manifest_path(other.root),
            *map(blob_path, other.blobs[1:]),
        ):
            answer, seconds = await timed(node, path)
            assert answer.status == 404
            assert seconds < PROMPT
        lab.registry.forget()
        await node.ctr_pull(second)
        assert lab.registry.requests("GET")
    finally:
        await node.spegel.end()


# Damaged disks


def path_of(node: Node, blob: Blob) -> Path:
    return node.daemon.content_path / "blobs" / blob.digest.algorithm / blob.digest.hex


def spoil(node: Node, blob: Blob) -> None:
    """Change a byte."""
    data = bytearray(blob.data)
    data[len(data) // 2] ^= 1
    path_of(node, blob).write_bytes(data)


def truncate(node: Node, blob: Blob) -> None:
    """Cut off the second half, as a power cut does."""
    path_of(node, blob).write_bytes(blob.data[: len(blob.data) // 2])


def empty(node: Node, blob: Blob) -> None:
    """Cut off everything, as a power cut does too."""
    path_of(node, blob).write_bytes(b"")


async def pardon(lab: Lab, node: Node) -> None:
    """Have a node forget who sent it wrong bytes: those are asked for nothing for ten minutes."""
    if node.spegel:
        await node.spegel.end()
    await heal(lab)


@pytest.mark.parametrize("damage", [spoil, truncate, empty])
async def test_wrong_bytes_are_never_passed_on(
    lab: Lab, damage: Callable[[Node, Blob], None]
) -> None:
    """Content damaged at one holder comes from the other; at both, it is 404, and containerd's pull
    goes upstream.
    """
    app = image(f"damaged/{damage.__name__}", layers=4)
    reference = lab.name(f"test/app:damaged-{damage.__name__}")
    first, second, puller = lab.nodes
    await pardon(lab, puller)
    await publish(lab, reference, app, first, second)
    await told(puller, first, second)
    paths = {manifest_path(app.root): app.root} | {blob_path(blob): blob for blob in app.blobs[1:]}
    for blob in app.blobs:
        damage(first, blob)
    for path, blob in paths.items():
        answer = await puller.get(path)
        assert (answer.status, answer.body) == (200, blob.data)
    for blob in app.blobs:
        damage(second, blob)
    for path in paths:
        assert (await puller.get(path)).status == 404
    lab.registry.forget()
    await puller.cri.pull(reference)
    assert len(lab.registry.requests("GET")) == len(app.blobs)


async def test_a_large_layer_that_was_cut_off_on_the_disk_is_not_offered(lab: Lab) -> None:
    """A layer too large to be verified is as long as its manifest says, or else it is 404 and comes
    from upstream.
    """
    app = image("cut", layers=2, size=10_000_000)
    reference = lab.name("test/app:cut")
    holder, _, puller = lab.nodes
    await pardon(lab, puller)
    await publish(lab, reference, app, holder)
    truncate(holder, app.blobs[-1])
    answer, seconds = await timed(puller, blob_path(app.blobs[-1]))
    assert answer.status == 404
    assert (
        seconds < PROMPT + InFlightRules().takeover_grace
    )  # a coordinator that is new since the puller restarted waits for so long
    await puller.cri.pull(reference)
    assert [one.size for one in lab.registry.requests("GET")] == [len(app.blobs[-1].data)]
