"""Real containerds pull an image that nobody has: one of them fetches it for all."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from spegel_py.admin.web.rendering import short
from tests.benchmarks.flash.crowd import play
from tests.benchmarks.flash.outcome import missed
from tests.benchmarks.flash.plan import SHARING, Case, Shape
from tests.faults.crowd import faults
from tests.faults.crowd.ground import Ground, start_ground
from tests.faults.crowd.player import play as play_row
from tests.faults.crowd.rows import Row
from tests.images import image
from tests.integration.cluster import metric, publish, registry_away, start_cluster
from tests.lab import Node, start_lab
from tests.processes import until

pytestmark = [pytest.mark.root, pytest.mark.containerd]


async def test_a_crowd_fetches_a_new_image_once() -> None:
    """The registry sends each layer and the manifest to one of three nodes, and all of them have the image."""
    async with start_lab(nodes=3) as lab:
        case = Case(3, Shape(2, 8), upstream="50mbit")
        outcome = await play(lab, case, SHARING)
        assert missed(case, {SHARING: outcome}) == []
        assert len(outcome.seconds) == 3
        staggered = Case(3, Shape(1, 8), upstream="50mbit", stagger=0.5)
        assert missed(staggered, {SHARING: await play(lab, staggered, SHARING)}) == []


async def test_a_crowd_lines_up_behind_the_one_that_holds_an_image() -> None:
    """One takes the layer from it and feeds the next: the holder sends it once and a little, not to each of them."""
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
    """One asks the registry for parts of the layer, several at a time; the others get theirs from one answer.

    It asks for all from some byte on each time, and hangs up when it has the part: so the registry sends more.
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


def looked_at(fault: faults.Fault) -> faults.Fault:
    """Return a fault before which every node's page and state are looked at, while the registry stands still."""

    @asynccontextmanager
    async def strike(ground: Ground) -> AsyncIterator[Collection[Node]]:
        ground.lab.registry.process.send(signal.SIGSTOP)
        try:
            await until(
                lambda: _all_show_all(ground), deadline=5.0
            )  # a leader that stalls longer is replaced
        finally:
            ground.lab.registry.process.send(signal.SIGCONT)
        async with fault(ground) as excused:
            yield excused

    return strike


async def _all_show_all(ground: Ground) -> bool:
    return all(await asyncio.gather(*(_shows_all(ground, node) for node in ground.nodes)))


async def _shows_all(ground: Ground, node: Node) -> bool:
    """Say whether a node tells of its part, and its page shows the whole tree of the layer, with one that fetches."""
    state, page = (
        await node.get("/debug/state", port=9090),
        await node.get("/debug/web/", port=9090),
    )
    parts = {part["digest"]: part["role"] for part in json.loads(state.body)["in_flight"]}
    if (role := parts.get(str(ground.layer.digest))) is None:
        return False
    _, _, tree = page.body.decode().partition(
        f"Who takes {short(str(ground.layer.digest))} from whom"
    )
    rows = re.findall(
        r'<span class="name">(.*?)</span> <span class="does">(.*?)</span>',
        tree.partition("</ul>")[0],
    )
    doing = dict(rows)
    others = {f"{other.address}:5000" for other in ground.nodes if other is not node}
    return (
        doing.keys() == {"this node", *others}
        and list(doing.values()).count("fetches it") == 1
        and (doing["this node"] == "fetches it") is (role == "lead")
    )


@pytest.mark.parametrize(
    "fault", [looked_at(faults.leader_mirror_killed), faults.leader_lost], ids=["mirror", "machine"]
)
async def test_a_crowd_outlives_who_fetches(fault: faults.Fault) -> None:
    """Whoever's own containerd lives has the image, with the right bytes, and nothing is left open.

    Before that, the page of each of them shows the whole tree.
    """
    async with start_ground(size=25_000_000) as ground:
        outcome = await play_row(ground, Row(name="leader", fault=fault, copies=2.1))
        assert outcome.missed == []
        assert sum(pull.succeeded for pull in outcome.pulls) >= len(ground.nodes) - 1
