"""Real containerds pull an image that no node has: one of them fetches it for all."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from spegel_py.tools.human import short_digest as short
from tests.benchmarks.flash.crowd import play
from tests.benchmarks.flash.outcome import missed
from tests.benchmarks.flash.plan import SHARING, Case, Shape
from tests.faults.crowd import faults
from tests.faults.crowd.cluster import CrowdCluster
from tests.faults.crowd.cluster import start_cluster as start_crowd
from tests.faults.crowd.player import play as play_row
from tests.faults.crowd.rows import Row
from tests.integration.cluster import metric, publish, registry_away, start_cluster
from tests.support.images import image
from tests.support.lab import Node, start_lab
from tests.support.processes import until

pytestmark = [pytest.mark.root, pytest.mark.containerd]


async def test_a_crowd_fetches_a_new_image_once() -> None:
    """The registry sends each layer and the manifest to one of three nodes; all get the image."""
    async with start_lab(nodes=3) as lab:
        case = Case(3, Shape(2, 8), upstream="50mbit")
        outcome = await play(lab, case, SHARING)
        assert missed(case, {SHARING: outcome}) == []
        assert len(outcome.seconds) == 3
        staggered = Case(3, Shape(1, 8), upstream="50mbit", stagger=0.5)
        assert missed(staggered, {SHARING: await play(lab, staggered, SHARING)}) == []


async def test_a_crowd_lines_up_behind_the_one_that_holds_an_image() -> None:
    """Nodes pass the layer on in a chain: the holder sends little more than one copy of it."""
    async with start_cluster(4) as lab:
        holder, *crowd = lab.nodes
        reference, app = lab.name("test/app:lined-up"), image("lined-up", layers=1, size=24_000_000)
        await publish(lab, reference, app, holder)
        async with registry_away(lab), holder.namespace.throttled("100mbit", burst="64kbit"):
            await asyncio.gather(*(node.cri.pull(reference) for node in crowd))
        size = len(app.blobs[-1].data)
        assert (
            size <= await metric(holder, "spegel_served_bytes_total", source="local") < 1.5 * size
        )
        assert (
            sum([await metric(node, "spegel_in_flight_bytes_total") for node in crowd]) > 1.5 * size
        )


async def test_a_crowd_whose_containerds_fetch_in_parts_fetches_once() -> None:
    """The leader requests parts of the layer, several at a time, and feeds all other nodes.

    Each request is open-ended and is aborted when the part is complete, so the registry sends more
    than one copy.
    """
    async with start_lab(nodes=3, part=1024 * 1024) as lab:
        if await lab.nodes[0].daemon.version() < (2, 1):
            pytest.skip("containerd before 2.1 fetches a layer in one piece")
        case = Case(3, Shape(1, 16), upstream="50mbit")
        outcome = await play(lab, case, SHARING)
        assert outcome.failed == ()
        assert set(outcome.manifests.values()) == {1}
        blobs = [
            one for one in lab.registry.requests("GET") if "/blobs/" in one.path and one.size > 1000
        ]
        assert len(blobs) > 2
        assert len({one.client.partition(":")[0] for one in blobs}) == 1


def after_inspection(fault: faults.Fault) -> faults.Fault:
    """Return a fault that waits, with a stopped registry, until each node shows the whole tree."""

    @asynccontextmanager
    async def strike(crowd: CrowdCluster) -> AsyncIterator[Collection[Node]]:
        crowd.lab.registry.process.send(signal.SIGSTOP)
        try:
            await until(
                lambda: _all_show_all(crowd), deadline=5.0
            )  # a leader that stalls longer is replaced
        finally:
            crowd.lab.registry.process.send(signal.SIGCONT)
        async with fault(crowd) as excused:
            yield excused

    return strike


async def _all_show_all(crowd: CrowdCluster) -> bool:
    return all(await asyncio.gather(*(_shows_all(crowd, node) for node in crowd.nodes)))


async def _shows_all(crowd: CrowdCluster, node: Node) -> bool:
    """Return True if a node's state and page show the whole tree of the layer, with one leader."""
    state, page = (
        await node.get("/debug/state", port=9090),
        await node.get("/debug/web/", port=9090),
    )
    parts = {part["digest"]: part["role"] for part in json.loads(state.body)["in_flight"]}
    if (role := parts.get(str(crowd.layer.digest))) is None:
        return False
    _, _, tree = page.body.decode().partition(
        f"Who takes {short(str(crowd.layer.digest))} from whom"
    )
    rows = re.findall(
        r'<span class="name">(.*?)</span> <span class="does">(.*?)</span>',
        tree.partition("</ul>")[0],
    )
    doing = dict(rows)
    others = {f"{other.address}:5000" for other in crowd.nodes if other is not node}
    return (
        doing.keys() == {"this node", *others}
        and list(doing.values()).count("fetches it") == 1
        and (doing["this node"] == "fetches it") is (role == "lead")
    )


@pytest.mark.parametrize(
    "fault",
    [after_inspection(faults.leader_mirror_killed), faults.leader_lost],
    ids=["mirror", "machine"],
)
async def test_a_crowd_outlives_who_fetches(fault: faults.Fault) -> None:
    """Every node whose own containerd lives gets the image with the right bytes.

    Nothing is left open, and before the fault the page of each node shows the whole tree.
    """
    async with start_crowd(size=25_000_000) as crowd:
        outcome = await play_row(crowd, Row(name="leader", fault=fault, copies=2.1))
        assert outcome.missed == []
        assert sum(pull.succeeded for pull in outcome.pulls) >= len(crowd.nodes) - 1
