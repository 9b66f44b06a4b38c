"""Nodes that drain, each with a real containerd: their images are elsewhere before they go."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import pytest

from tests.integration.cluster import events, everybody, kill_node, metric, registry_away, state
from tests.integration.test_replica_requests import pull_at_first
from tests.integration.test_replicas import keepers, start
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab, until
from tests.support.processes import run

pytestmark = pytest.mark.root


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three machines, on which spegel-py does not run yet."""
    async with start_lab(nodes=3) as made:
        yield made


async def evacuate(node: Node, *arguments: str) -> Mapping[str, object]:
    """Run `evacuate` for a node; return what it printed."""
    socket = node.folder / "data" / "control.sock"
    command = (sys.executable, "-m", "spegel_py", "evacuate", "--json", *arguments)
    found: Mapping[str, object] = json.loads(await run(*command, "--control-socket", str(socket)))
    return found


async def draining(node: Node) -> object:
    return (await state(node))["draining"]


async def test_a_node_that_drains_does_not_count_until_it_is_undone(lab: Lab) -> None:
    """Both other nodes keep the image then. The drain outlives a restart."""
    await start(lab, replica_floor="2")
    reference = await pull_at_first(lab, image(layers=2, size=300_000))
    first, second, third = lab.nodes

    async def keeps_the_floor() -> bool:
        return len(await keepers(lab.nodes)) == 2

    await until(keeps_the_floor, deadline=30.0)
    await evacuate(first, "--wait")
    assert await draining(first) == {"command": "by uid 0"}

    async def is_elsewhere() -> bool:
        return await keepers([second, third]) == [second, third]

    await until(is_elsewhere, deadline=30.0)
    assert first.spegel is not None
    await first.spegel.end()
    await first.start_spegel(static_bootstrap_peers=everybody(lab), replica_floor="2")

    async def is_known() -> bool:
        peers = {peer["address"]: peer for peer in (await state(second))["peers"]}
        return any(peer["draining"] for peer in peers.values())

    await until(is_known, deadline=30.0)
    assert await draining(first) == {"command": "by uid 0"}
    assert await metric(first, "spegel_draining", cause="command") == 1

    async def is_alerted() -> bool:
        alerts = (await state(first))["supervision"]["alerts"]
        return "draining" in [one["condition"] for one in alerts]

    await until(is_alerted, deadline=10.0)
    await evacuate(first, "--undo")
    assert await draining(first) is None
    await until(lambda: _counts_again(second), deadline=30.0)
    await evacuate(first)
    await kill_node(first)
    async with registry_away(lab):
        await third.cri.pull(reference)


async def _counts_again(node: Node) -> bool:
    return not any(peer["draining"] for peer in (await state(node))["peers"])


async def test_a_node_gives_its_only_copies_away_before_it_stops(lab: Lab) -> None:
    """It goes for good: without any floor another node has the image. No pull goes upstream."""
    await start(lab, evacuate_on_stop="sole")
    reference = await pull_at_first(lab, image(layers=2, size=300_000))
    first, _, third = lab.nodes
    assert first.spegel is not None
    await first.spegel.end(signal.SIGTERM)
    [record] = events(first, "evacuation before the end")
    assert record["is_over"]
    await first.daemon.kill()
    async with registry_away(lab):
        await third.cri.pull(reference)
