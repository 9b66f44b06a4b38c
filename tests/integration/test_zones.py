"""Replicas on real containerds: never all in one zone, and more of images that are pulled often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest

from spegel_py.oci.build import Blob
from tests.integration.cluster import (
    blob_path,
    everybody,
    heal,
    kill_node,
    manifest_path,
    metric,
    publish,
    state,
    timed,
)
from tests.integration.test_preheat import preheat
from tests.integration.test_replicas import QUICK, keepers
from tests.support.images import image
from tests.support.lab import REGISTRY, Lab, Node, start_lab, until
from tests.support.processes import CommandFailed

pytestmark = pytest.mark.root

HOT = 12.0
"""A heat that is worth a replica in each zone, for some half-lives."""


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three machines, on which spegel-py does not run yet."""
    async with start_lab(nodes=3) as made:
        yield made


async def start_in_zones(lab: Lab, *zones: str | None, program: str = QUICK, **flags: str) -> None:
    """Start nodes that scan every second, each in its zone; None for a node that names none."""
    for node in lab.nodes:
        node.program = program
    peers = everybody(lab)
    await asyncio.gather(
        *(
            node.start_spegel(static_bootstrap_peers=peers, zone=zone, **flags)
            for node, zone in zip(lab.nodes, zones, strict=True)
        )
    )
    await heal(lab)


async def test_pulls_stay_in_the_zone_until_it_fails(lab: Lab) -> None:
    """Two holders, one in each zone: most bytes come from the own one. When its machine is gone,
    the other one gives all.
    """
    await start_in_zones(lab, "a", "a", "b", program="spegel_py")
    asker, near, far = lab.nodes
    many = image("zones", layers=40, size=100_000)
    reference = lab.name("test/zones:many")
    await publish(lab, reference, many, near, far)
    layers = many.blobs[2:]

    async def take(blobs: Sequence[Blob]) -> tuple[float, float]:
        """Fetch blobs; returns the bytes from the zone and from the other one."""
        before = await _by_zone(asker)
        for blob in blobs:
            assert (await asker.get(blob_path(blob, "test/zones"))).status == 200
        after = await _by_zone(asker)
        return after[0] - before[0], after[1] - before[1]

    same, other = await take(layers)
    assert same > 2 * other
    lab.registry.forget()
    await kill_node(near)
    same, other = await take(layers[:10])
    assert (same, other > 0) == (0, True)
    assert lab.registry.requests() == []


async def _by_zone(node: Node) -> tuple[float, float]:
    name = "spegel_zone_received_bytes_total"
    return await metric(node, name, zone="same"), await metric(node, name, zone="other")


async def test_replicas_are_in_two_zones_though_one_would_be_free(lab: Lab) -> None:
    """Two nodes of a zone pulled the image: one of them keeps it. The third node takes it: it names
    no zone, as an older version. When that is gone, the zone keeps two.
    """
    await start_in_zones(lab, "a", "a", None, replica_floor="2")
    first, second, third = lab.nodes
    one = image()
    reference = lab.name("test/zones:1")
    await lab.registry.push(reference, one)
    for node in (first, second):
        await node.cri.pull(reference)
    lab.registry.forget()

    async def has_third() -> bool:
        return third in await keepers(lab.nodes)

    await until(has_third, deadline=60.0)
    assert len(await keepers(lab.nodes)) == 2
    assert await metric(third, "spegel_replica_received_bytes_total", source="peer") > 0
    assert lab.registry.requests() == []
    seen = {peer["address"]: peer["zone"] for peer in (await state(first))["peers"]}
    assert seen == {f"{second.address}:5000": "a", f"{third.address}:5000": ""}
    await kill_node(third)

    async def has_two() -> bool:
        return len(await keepers([first, second])) == 2

    await until(has_two, deadline=30.0)


async def test_pulls_make_copies_in_all_zones_and_time_lets_them_go(lab: Lab) -> None:
    """The floor is 1: only the node that pulled the image keeps it. Pulls heat it, so that a node
    of each zone takes it. When nobody pulls it any more, one node keeps it.
    """
    program = "tests.support.quick_heat"
    flags = {"replica_floor": "1", "replica_ceiling": "3"}
    flags["mirrored_registries"] = f"http://{REGISTRY}"
    await start_in_zones(lab, "a", "b", "c", program=program, **flags)
    first = lab.nodes[0]
    one = image()
    reference = lab.name("test/app:1")
    await lab.registry.push(reference, one)
    await first.cri.pull(reference)
    path = manifest_path(one.root)

    async def count() -> int:
        return len(await keepers(lab.nodes))

    async def is_kept_once() -> bool:
        return await count() == 1

    async def is_everywhere() -> bool:
        shown = json.loads((await first.get("/debug/replicas", port=9090)).body)
        if shown["images"][0]["heat"] < HOT:
            response, _ = await timed(first, path)
            assert response.status == 200
        return await count() == 3

    await until(is_kept_once, deadline=30.0)
    lab.registry.forget()
    await until(is_everywhere, deadline=60.0)
    assert lab.registry.requests() == []
    assert sum([await metric(node, "spegel_replica_images_hot") for node in lab.nodes]) >= 1
    await until(is_kept_once, deadline=60.0)
    await _preheat_a_zone(lab)


async def _preheat_a_zone(lab: Lab) -> None:
    """A person names a zone: its nodes fetch the image, and an unknown zone is refused."""
    first, second, _ = lab.nodes
    reference = lab.name("test/zone:1")
    await lab.registry.push(reference, image("zone"))
    job = json.loads(await preheat(first, reference, "--nodes", "zone=b", "--wait", "--json"))
    [found] = job["images"]
    [node] = found["nodes"]
    assert second.address in job["nodes"][node]
    assert job["state"] == "succeeded"
    with pytest.raises(CommandFailed, match="no node is in the zone 'd'; known are a, b, c"):
        await preheat(first, reference, "--nodes", "zone=d")
