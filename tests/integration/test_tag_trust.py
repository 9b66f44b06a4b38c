"""Whose word about a tag counts, with real containerds: a node that says another digest, and the
nodes that get it from there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from spegel_py.oci.build import Image
from tests.integration.cluster import (
    everybody,
    found,
    heal,
    kill_node,
    manifest_path,
    registry_away,
    state,
)
from tests.integration.conftest import Labs
from tests.support.images import image
from tests.support.lab import Lab, Node
from tests.support.processes import until

pytestmark = pytest.mark.root

QUICK = "tests.support.quick_tags"
GOOD, EVIL = image("good", is_runnable=True), image("evil", is_runnable=True)


@asynccontextmanager
async def started(labs: Labs, nodes: int, **flags: str) -> AsyncIterator[tuple[Lab, str]]:
    """Start a cluster; give it with the name of a tag."""
    lab = await labs(nodes)
    for node in lab.nodes:
        node.program = QUICK
    await heal(lab, **flags)
    yield lab, lab.name("test/app:1")


async def test_a_wrong_tag_ends_with_the_node_that_saw_it(labs: Labs) -> None:
    """Another node has taken it, and hands on whose word it is. Once the author has gone, neither
    that node nor any other answers it.
    """
    async with started(labs, 3) as (lab, reference):
        rogue, victim, other = lab.nodes
        await _observe(lab, rogue, reference, EVIL)
        await lab.registry.push(reference, GOOD)
        await found(victim, reference, [])
        await victim.cri.pull(reference)
        assert await _digest(victim, reference) == str(EVIL.root.digest)
        author = (await state(rogue))["id"]
        assert (await _observation(victim, reference)).split(";")[2] == author
        await found(other, reference, [])
        assert await _observation(other, reference) == await _observation(victim, reference)
        await _restart(lab, victim)
        await until(lambda: _is_author(victim, reference, author), deadline=10)
        assert rogue.spegel
        await rogue.spegel.end()
        for node in (victim, other):
            await until(partial(_misses, node, reference), deadline=20)
        await victim.cri.pull(reference)
        await until(lambda: _answers(other, reference, GOOD), deadline=10)
        assert await _is_author(other, reference, (await state(victim))["id"])


async def test_an_observation_travels_past_the_death_of_its_observer(labs: Labs) -> None:
    """A saw the tag, B got it from A, and C gets it from B, without the registry."""
    async with started(labs, 3) as (lab, reference):
        a, b, c = lab.nodes
        await _observe(lab, a, reference, GOOD)
        header = await _observation(a, reference)
        await found(b, reference, [])
        async with registry_away(lab):
            await b.cri.pull(reference)
            await until(lambda: _holders(c, reference, 2), deadline=10)
            await kill_node(a)
            await c.cri.pull(reference)
        for node in (b, c):
            assert await _observation(node, reference) == header


async def test_with_two_witnesses_a_rogue_is_not_believed_and_is_an_alert(labs: Labs) -> None:
    """One node saw the right digest before. The node that is told both asks the registry, is the
    second witness, and tells of the rogue. All others need no registry then.
    """
    async with started(labs, 4, tag_witnesses="2", tags_from_peers="off") as (lab, reference):
        first, rogue, asking, late = lab.nodes
        await _observe(lab, first, reference, GOOD)
        await asyncio.sleep(2.5)  # the observation has to be older than the clocks' difference
        await _observe(lab, rogue, reference, EVIL)
        await lab.registry.push(reference, GOOD)
        for node in (asking, late):
            await _restart(lab, node, tag_witnesses="2")
        await until(lambda: _holders(asking, reference, 2), deadline=20)
        assert await _misses(asking, reference)
        await asking.cri.pull(reference)
        assert await _digest(asking, reference) == str(GOOD.root.digest)
        await until(lambda: _has_alert(asking), deadline=20)
        conflict = (await state(asking))["tag_trust"]["conflicts"][reference]
        assert conflict["alone"]["digest"] == str(EVIL.root.digest)
        assert conflict["alone"]["observer"] == (await state(rogue))["id"]
        assert conflict["before"]["observer"] == (await state(first))["id"]
        assert conflict["after"]["observer"] == (await state(asking))["id"]
        await until(lambda: _holders(late, reference, 3), deadline=20)
        await kill_node(rogue)
        async with registry_away(lab):
            await until(lambda: _answers(late, reference, GOOD), deadline=20)
            await late.cri.pull(reference)
        assert await _digest(late, reference) == str(GOOD.root.digest)


async def _observe(lab: Lab, node: Node, reference: str, pushed: Image) -> None:
    """Push an image, and let a node pull its tag from the registry."""
    await lab.registry.push(reference, pushed)
    await node.cri.pull(reference)
    own = (await state(node))["id"]
    await until(lambda: _is_author(node, reference, own), deadline=10)


async def _restart(lab: Lab, node: Node, **flags: str) -> None:
    assert node.spegel
    await node.spegel.end()
    await node.start_spegel(static_bootstrap_peers=everybody(lab), **flags)


async def _digest(node: Node, reference: str) -> str:
    """Return a tag's digest in a node's containerd."""
    listed = await node.daemon.ctr("images", "ls", f"name=={reference}")
    return listed.splitlines()[1].split()[2]


async def _observation(node: Node, reference: str) -> str:
    answer = await node.get(manifest_path(reference), method="HEAD")
    return answer.headers.get("x-spegel-seen", "")


async def _is_author(node: Node, reference: str, author: str) -> bool:
    return author in await _observation(node, reference)


async def _misses(node: Node, reference: str) -> bool:
    return (await node.get(manifest_path(reference), method="HEAD")).status == 404


async def _answers(node: Node, reference: str, expected: Image) -> bool:
    answer = await node.get(manifest_path(reference), method="HEAD")
    return answer.headers.get("docker-content-digest") == str(expected.root.digest)


async def _holders(node: Node, reference: str, count: int) -> bool:
    answer = json.loads((await node.get(f"/debug/resolve?key={reference}", port=9090)).body)
    return len(answer["peers"]) == count


async def _has_alert(node: Node) -> bool:
    alerts = (await state(node))["supervision"]["alerts"]
    return any("tag-conflict" in json.dumps(each) for each in alerts)
