"""Nodes that ask each other to keep images, each with a real containerd: one node pulled it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from spegel_py.oci.build import Blob, Image
from tests.integration.cluster import events, kill_node, metric, registry_away
from tests.integration.test_replicas import keepers, start
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab, until

pytestmark = pytest.mark.root

MIB = 1024 * 1024


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three machines, on which spegel-py does not run yet."""
    async with start_lab(nodes=3) as made:
        yield made


async def pull_at_first(lab: Lab, one: Image) -> str:
    """Pull an image on the first node alone; return its reference."""
    reference = lab.name("test/app:1")
    await lab.registry.push(reference, one)
    await lab.nodes[0].cri.pull(reference)
    lab.registry.forget()
    return reference


async def leases(node: Node) -> list[str]:
    """Return a node's leases of spegel-py."""
    listed = (await node.daemon.ctr("leases", "ls", "-q")).split()
    return [line for line in listed if line.startswith("spegel-py/")]


async def content(node: Node) -> set[str]:
    return set((await node.daemon.ctr("content", "ls", "-q")).split())


async def kept_by(lab: Lab, count: int) -> list[Node]:
    """Wait until so many living nodes keep the image, and return them."""
    alive = [node for node in lab.nodes if node.daemon.process.pid is not None]

    async def is_kept() -> bool:
        return len(await keepers(alive)) == count

    await until(is_kept, deadline=60.0)
    return await keepers(alive)


async def test_the_floor_is_reached_though_only_one_node_pulled_the_image(lab: Lab) -> None:
    """Another one has it whole, below its own lease, by way of peers alone; nothing else happens
    there. With the registry and the first node gone, the third node's pull is served.
    """
    one = image(layers=3, size=2 * MIB)
    await start(lab, replica_floor="2")
    reference = await pull_at_first(lab, one)
    first, *others = lab.nodes
    [keeper] = [node for node in await kept_by(lab, 2) if node is not first]
    [third] = [node for node in others if node is not keeper]
    assert lab.registry.requests() == []
    assert await content(keeper) == {str(blob.digest) for blob in one.blobs}
    [lease] = await leases(keeper)
    assert one.root.digest.hex in lease
    assert await keeper.cri.images() == []
    assert await content(third) == set()
    size = sum(len(blob.data) for blob in one.blobs)
    name = "spegel_replica_received_bytes_total"
    assert await metric(keeper, name, reason="floor", source="peer") == size
    assert await metric(keeper, name, source="upstream") == 0
    await kill_node(first)
    async with registry_away(lab):
        await third.cri.pull(reference)


async def test_the_floor_is_restored_after_the_death_of_a_keeper(lab: Lab) -> None:
    """The node that pulled it dies. The keeper speaks for the image then, and asks the third."""
    await start(lab, replica_floor="2")
    await pull_at_first(lab, image())
    await kept_by(lab, 2)
    await kill_node(lab.nodes[0])
    assert len(await kept_by(lab, 2)) == 2
    assert lab.registry.requests() == []


@pytest.mark.containerd
async def test_an_index_is_taken_with_the_platform_that_the_node_has(lab: Lab) -> None:
    """The keeper gets the index and the same platform's content, and serves the tag by it."""
    many = image("many", platforms=("amd64", "arm64"))
    await start(lab, replica_floor="2")
    reference = await pull_at_first(lab, many)
    first = lab.nodes[0]
    [keeper] = [node for node in await kept_by(lab, 2) if node is not first]
    assert str(many.root.digest) in await content(keeper)
    assert await content(keeper) == await content(first)
    await kill_node(first)
    [third] = [node for node in lab.nodes if node not in (first, keeper)]
    async with registry_away(lab):
        await third.cri.pull(reference)


async def test_wrong_bytes_leave_nothing_behind(lab: Lab) -> None:
    """A damaged blob at the only node with the image: the others refuse, and say why."""
    one = image(layers=1, size=8 * MIB)
    layer: Blob = max(one.blobs, key=lambda blob: len(blob.data))
    await start(lab, replica_floor="1")
    await pull_at_first(lab, one)
    first, *others = lab.nodes
    path = first.daemon.content_path / "blobs" / "sha256" / layer.digest.hex
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"damaged")
    for node in lab.nodes:
        assert node.spegel is not None
        await node.spegel.end()
        node.spegel = None
    await start(lab, replica_floor="3")

    async def is_refused() -> bool:
        return all(events(node, "replica not taken") for node in others)

    await until(is_refused, deadline=60.0)
    for node in others:
        assert await content(node) == set()
        assert await leases(node) == []
    faults = {entry["why"] for node in others for entry in events(node, "replica not taken")}
    assert faults <= {"wrong-bytes", "not-found", "unreachable"}


async def test_a_node_without_room_refuses_with_the_reason(lab: Lab) -> None:
    """The image stays where it is, and the speaker counts the refusals."""
    await start(lab, replica_floor="2", replica_max_disk="0")
    await pull_at_first(lab, image())
    first, *others = lab.nodes
    name = "spegel_replica_keeps_total"

    async def is_refused() -> bool:
        return await metric(first, name, reason="floor", outcome="disk") >= len(others)

    await until(is_refused, deadline=60.0)
    assert await keepers(lab.nodes) == [first]
    for node in others:
        assert await content(node) == set()


@pytest.mark.containerd
async def test_containerd_restarts_in_the_middle_of_a_take(lab: Lab) -> None:
    """The keeper goes on with the bytes that it has, and no lease but the replica's is left."""
    one = image(layers=1, size=24 * MIB)
    layer = max(one.blobs, key=lambda blob: len(blob.data))
    await start(lab, replica_floor="1")
    await pull_at_first(lab, one)
    first = lab.nodes[0]
    for node in lab.nodes:
        assert node.spegel is not None
        await node.spegel.end()
        node.spegel = None
    await start(lab, replica_floor="2", replica_rate="4MiB/s")
    keeper = await _begun(lab.nodes[1:])
    await keeper.daemon.kill()
    await keeper.daemon.start()
    assert set(await kept_by(lab, 2)) == {first, keeper}
    assert str(layer.digest) in await content(keeper)
    [lease] = await leases(keeper)
    assert lease.startswith("spegel-py/content/")
    received = await metric(keeper, "spegel_replica_received_bytes_total", source="peer")
    assert received < 1.5 * len(layer.data)


async def _begun(nodes: list[Node]) -> Node:
    """Wait until a node has a part of an image, and return it."""
    found: list[Node] = []

    async def has_begun() -> bool:
        for node in nodes:
            ingests = (node.daemon.content_path / "ingest").glob("*/data")
            if sum([path.stat().st_size for path in ingests]) > 4 * MIB:
                found.append(node)
        return bool(found)

    await until(has_begun, deadline=60.0)
    return found[0]
