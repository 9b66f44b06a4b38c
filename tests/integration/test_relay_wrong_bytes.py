"""What containerd does with wrong bytes, and what is done for its next pull: a real daemon, a
damaged file.
"""

from __future__ import annotations

import grpc
import pytest

from spegel_py.oci.build import Blob
from tests.integration.cluster import events, heal, metric, publish, start_cluster
from tests.support.images import image
from tests.support.lab import Node, until

pytestmark = pytest.mark.root

SIZE = 12_000_000


def damage(node: Node, layer: Blob) -> None:
    """Change a byte of a layer on a node's disk, as the disk may; it never has another length."""
    path = node.daemon.path(layer.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(bytes([layer.data[SIZE // 2] ^ 1]))


async def fails(node: Node, reference: str) -> str:
    """Pull, see it fail, and wait until containerd has thrown away what came, as it has when
    kubelet tries again.
    """
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await node.cri.pull(reference)

    async def is_clean() -> bool:
        return not list((node.daemon.content_path / "ingest").glob("*/data"))

    await until(is_clean, deadline=60)
    return failed.value.details() or ""


@pytest.mark.containerd
async def test_with_all_the_second_pull_succeeds() -> None:
    """The first fails, since containerd keeps what came and gets but the end upstream; then the
    peer is left out.
    """
    async with start_cluster(2, verify_blobs="all") as lab:
        holder, puller, reference, layer = (
            *lab.nodes,
            lab.name("test/app:wrong"),
            image("wrong", size=SIZE).blobs[-1],
        )
        await publish(lab, reference, image("wrong", size=SIZE), holder)
        damage(holder, layer)
        assert "unexpected commit digest" in await fails(puller, reference)
        [event] = events(puller, "peer sent wrong bytes")
        assert event["addr"] == f"{holder.address}:5000"
        assert await metric(puller, "spegel_quarantined_peers") == 1
        assert (
            await metric(puller, "spegel_verified_blobs_total", source="peer", outcome="wrong") == 1
        )
        await puller.cri.pull(reference)
        assert await puller.cri.status(reference)


async def test_with_a_sample_the_third_pull_succeeds_at_the_latest() -> None:
    """A runtime that asks again for a blob it was given threw it away: the second pull finds the
    peer out.

    The holder does not verify, or by chance it finds its damaged blob itself and tells it no more.
    """
    async with start_cluster(2, verify_blobs="off") as lab:
        holder, puller, reference = *lab.nodes, lab.name("test/app:sampled")
        assert puller.spegel
        await puller.spegel.end()
        await heal(lab, verify_blobs="sample")
        await publish(lab, reference, image("sampled", size=SIZE), holder)
        damage(holder, image("sampled", size=SIZE).blobs[-1])
        for _ in range(2):
            if not events(puller, "peer sent wrong bytes"):
                await fails(puller, reference)
        assert events(puller, "peer sent wrong bytes")
        await puller.cri.pull(reference)


async def test_a_damaged_blob_is_withdrawn_after_it_was_sent_once() -> None:
    """Its own node finds it out, names it, and neither tells nor sends it any more: others go to
    the registry.
    """
    async with start_cluster(3, verify_blobs="all") as lab:
        holder, puller, other = lab.nodes
        reference, app = lab.name("test/app:damaged"), image("damaged", size=SIZE)
        await publish(lab, reference, app, holder)
        layer, before = app.blobs[-1], await metric(other, "spegel_records_held")
        damage(holder, layer)
        await fails(puller, reference)

        async def is_withdrawn() -> bool:
            return await metric(other, "spegel_records_held") < before

        await until(is_withdrawn)
        [event] = events(holder, "content damaged")
        assert event["digest"] == str(layer.digest)
        assert (
            await metric(holder, "spegel_verified_blobs_total", source="local", outcome="wrong")
            == 1
        )
        await other.cri.pull(reference)
        assert events(other, "relay started", digest=str(layer.digest), method="GET") == []
