"""Tags that move at their registry, on containerd: they are answered for a while, despite later
pulls.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from tests.integration.cluster import manifest_path, publish, registry_away, start_cluster
from tests.support.images import image
from tests.support.lab import Lab, Node
from tests.support.processes import until

pytestmark = pytest.mark.root


async def age(node: Node, reference: str) -> int | None:
    """Return a tag's age by a node's answer; None if it does not answer the tag."""
    answer = await node.get(manifest_path(reference), method="HEAD")
    return int(answer.headers["age"]) if answer.status == 200 else None


async def digest(node: Node, reference: str) -> str:
    """Return a tag's digest in a node's containerd."""
    listed = await node.daemon.ctr("images", "ls", f"name=={reference}")
    return listed.splitlines()[1].split()[2]


@pytest.mark.containerd
async def test_a_tag_that_moved_is_pulled_from_its_registry_once_it_has_run_out() -> None:
    """No peer and no node answers the old target any more. The registry's clock counts, not the
    pulls.
    """
    old, new = image("old", is_runnable=True), image("new", is_runnable=True)
    async with start_cluster(2, tag_ttl="8s") as lab:
        holder, puller = lab.nodes
        reference = lab.name("test/app:moving")
        await publish(lab, reference, old, holder)
        await until(lambda: _is_older(puller, reference, 2), deadline=10)
        await puller.cri.pull(reference)  # from the holder
        assert lab.registry.requests() == []
        first = await age(puller, reference)
        assert first is not None
        assert first >= 2, "what came from a peer is as old as it was there"
        await lab.registry.push(reference, new)
        await puller.cri.pull(reference)  # from this node: it still counts
        assert await digest(puller, reference) == str(old.root.digest)
        await until(lambda: _is_none(puller, reference), deadline=20)
        await puller.cri.pull(reference)
        assert await digest(puller, reference) == str(new.root.digest)
        assert await age(puller, reference) in (0, 1)
        await until(
            lambda: _is_younger(holder, reference, 8), deadline=5
        )  # from the puller, whose answer is newer
        await holder.cri.pull(reference)
        assert await digest(holder, reference) == str(new.root.digest)


async def test_an_old_tag_is_pulled_while_its_registry_is_away() -> None:
    """As long as it is away; the tag is not made younger by that."""
    app = image("outlives", is_runnable=True)
    async with start_cluster(2, tag_ttl="3s") as lab:
        holder, puller = lab.nodes
        reference = lab.name("test/app:outlives")
        await publish(lab, reference, app, holder)
        await until(lambda: _is_none(holder, reference), deadline=20)
        async with registry_away(lab):
            await puller.cri.pull(reference)
            assert await digest(puller, reference) == str(app.root.digest)
            assert await _is_older(puller, reference, 3)
        await until(lambda: _is_none(puller, reference), deadline=20)


async def test_upstream_first_gets_a_moved_tag_at_once_and_outlives_its_registry() -> None:
    """The tag comes from the registry, and its content from peers. In an air gap, every pull of a
    tag or a digest is answered after the TTL.
    """
    old, new = image("first", is_runnable=True), image("second", is_runnable=True)
    async with start_cluster(3, tag_ttl="2s", tag_policy="upstream-first") as lab:
        holder, puller, late = lab.nodes
        reference = lab.name("test/app:upstream")
        await publish(lab, reference, old, holder)
        await puller.cri.pull(reference)
        asked = [each for each in lab.registry.requests() if each.path != "/v2/"]  # by the node
        assert {each.method for each in asked} == {"HEAD"}
        await lab.registry.push(reference, new)
        moved = time.monotonic()
        await puller.cri.pull(reference)
        assert time.monotonic() - moved < 5
        assert await digest(puller, reference) == str(new.root.digest)
        await holder.cri.pull(reference)
        await lab.registry.stop()
        lab.registry.forget()
        for node in (late, holder):
            # each finds the outage within seconds
            await until(partial(_is_older, node, reference, 2), deadline=20)
            for each in (reference, f"{lab.name('test/app')}@{new.root.digest}"):
                await node.cri.pull(each)
        assert await digest(late, reference) == str(new.root.digest)
        assert lab.registry.requests() == []


async def test_with_a_ttl_of_0_only_digests_come_from_peers(lab: Lab) -> None:
    """The tag is requested from its registry, all other content from the peer."""
    app = image("digests", layers=2, size=300_000, is_runnable=True)
    reference = lab.name("test/app:0")
    holder, puller = lab.nodes
    await lab.registry.push(reference, app)
    await asyncio.gather(*(node.start_spegel(tag_ttl="0") for node in lab.nodes))
    puller.write_hosts_toml(mirror=f"http://{puller.address}:5000")
    await holder.cri.pull(reference)
    manifest = manifest_path(app.root, "test/app")
    await until(lambda: _is_found(puller, manifest), deadline=10)
    lab.registry.forget()
    await puller.cri.pull(reference)
    assert {request.method for request in lab.registry.requests()} == {"HEAD"}
    assert await age(holder, reference) is None


async def _is_older(node: Node, reference: str, seconds: int) -> bool:
    return (await age(node, reference) or 0) >= seconds


async def _is_younger(node: Node, reference: str, seconds: int) -> bool:
    found = await age(node, reference)
    return found is not None and found < seconds


async def _is_none(node: Node, reference: str) -> bool:
    return await age(node, reference) is None


async def _is_found(node: Node, path: str) -> bool:
    return (await node.get(path, method="HEAD")).status == 200
