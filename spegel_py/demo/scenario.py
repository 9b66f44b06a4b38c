"""The phases of the demonstration.

1. All nodes but the first, which has the image, pull it at once.
2. One more node joins and pulls; a node is killed while it sends.
3. All nodes pull an image at once that only a registry far away has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from spegel_py.demo import demo_image, probe
from spegel_py.demo.demo_cluster import DemoCluster, Fill, cluster
from spegel_py.demo.demo_image import FRESH_NAME, MB, shown
from spegel_py.demo.demo_node import DemoNode
from spegel_py.demo.demo_result import DemoResult, FreshImageResult, NodeKill, NodeResult
from spegel_py.demo.log_watch import watching_logs
from spegel_py.demo.progress_table import ProgressTable
from spegel_py.demo.puller import DemoContext, KillingPuller, Puller
from spegel_py.demo.source_tree import UPSTREAM
from spegel_py.demo.throttled_proxy import ThrottledProxy
from spegel_py.oci.manifest import Child
from spegel_py.tools.files import hash_file
from spegel_py.tools.threads import run

SIZE, LAYERS = 32 * MB, 4
"""Bytes and layers of the image of phase 3, large enough to be seen on its way."""

RATE = 10.0
"""MB/s that upstream gives to all nodes together.

Slow enough to watch, and quick enough for the whole to take four seconds.
"""

COUNTED = 5.0
"""Seconds until the registry's metric has counted all bytes: it counts when an answer ends."""


async def play(
    *, nodes: int, fill: Fill, folder: Path, rate: float, table: ProgressTable
) -> DemoResult:
    """Run all phases in `folder`; every process has ended when this returns or raises.

    Args:
        nodes: number of nodes in phase 1.
        fill: puts the image into the first node's layout.
        folder: an empty folder for the nodes' layouts and logs.
        rate: MB/s that each pull of phase 1 is limited to; 0 for no limit.
        table: shows the progress.

    Raises DemoFailed if a node does not come up, and the errors of `fill`.
    """
    began = time.monotonic()
    async with cluster(folder) as made:
        table.say(f"Starting {nodes} nodes; the image is put into node 1 only.")
        first, *others = await made.prepare(nodes)
        image = await made.start_with(fill)
        if len(image.tags) > 1:
            table.say(f"Of {len(image.tags)} images the first is shared: {', '.join(image.tags)}")
        context = DemoContext(cluster=made, image=image, table=table)
        with table.live():
            await made.joined([first], records=0)
            await made.joined(others, records=context.keys)
            results = await _pull_together(context, others, rate)
            kill = None
            if not any(result.error for result in results):
                result, kill = await _pull_and_kill(context)
                results.append(result)
        expected = _expected(context, made.nodes)
        arrival = None
        if not any(result.error for result in results):
            arrival, arrived = await _pull_fresh_image(made, folder=folder, table=table)
            expected += _expected(arrived, made.running)
        right = await _verify(expected, table)
    return DemoResult(
        image=image.name,
        digest=str(image.manifests[0].digest),
        bytes=image.size,
        blobs=len(image.blobs),
        rate_limit=rate,
        results=tuple(results),
        joiner=made.nodes[-1].name if len(results) == nodes else None,
        kill=kill,
        arrival=arrival,
        reverified=sum(right),
        expected=len(right),
        seconds=time.monotonic() - began,
    )


async def _pull_together(
    context: DemoContext, nodes: Sequence[DemoNode], rate: float
) -> list[NodeResult]:
    """Let all these nodes pull at the same time, each starting with another blob.

    `rate` is in MB/s.
    """
    names = ", ".join(node.name for node in nodes)
    context.table.say(f"Phase 1: {names} pull {shown(context.image.size)} at the same time.")
    context.table.expect(
        [node.name for node in nodes],
        context.image.blobs,
        holders=[context.cluster.nodes[0].name],
    )
    step = len(context.image.blobs) / len(nodes)
    async with watching_logs(context, nodes):
        pulls = (
            Puller(context=context, node=node, rate=rate * MB).run(round(at * step))
            for at, node in enumerate(nodes)
        )
        return list(await asyncio.gather(*pulls))


async def _pull_and_kill(context: DemoContext) -> tuple[NodeResult, NodeKill | None]:
    """Let one more node join and pull, and kill the node that sends it the largest layer."""
    context.table.say(
        "Phase 2: one more node joins and pulls; the node that sends it the largest layer is "
        "killed."
    )
    holders = len(context.cluster.nodes)
    [joiner] = await context.cluster.prepare(1)
    await context.cluster.start([joiner])
    context.table.expect([joiner.name], context.image.blobs)
    await context.cluster.joined([joiner], records=holders * context.keys)
    killer = KillingPuller(context=context, node=joiner)
    async with watching_logs(context, [joiner]):
        result = await killer.run()
    return result, killer.kill()


async def _pull_fresh_image(
    made: DemoCluster, *, folder: Path, table: ProgressTable
) -> tuple[FreshImageResult, DemoContext]:
    """Let all running nodes pull an image that only a new registry process has.

    The registry process has ended when this returns. Raises DemoFailed if it does not come up.
    """
    nodes = made.running
    table.say(
        f"Phase 3: an image that nobody has; all {len(nodes)} nodes pull it at once from a "
        "registry far away."
    )
    async with cluster(folder) as beyond:
        [registry] = await beyond.prepare(1, name=UPSTREAM)
        fresh = await beyond.start_with(
            partial(demo_image.make, size=SIZE, layers=LAYERS, seed="fresh", name=FRESH_NAME)
        )
        async with ThrottledProxy(port=registry.ports.registry, rate=RATE * MB).open() as upstream:
            context = DemoContext(cluster=made, image=fresh, table=table, upstream=upstream)
            results = await _pull_all(context, nodes)
        sent = await _sent(beyond, registry, sum(result.from_upstream for result in results))
    return _fresh_image_result(context, results, sent), context


async def _pull_all(context: DemoContext, nodes: list[DemoNode]) -> list[NodeResult]:
    fresh, table = context.image, context.table
    table.say(
        f"  {shown(fresh.size)} over a line of {RATE:g} MB/s; the tree says who takes which layer "
        "from whom."
    )
    table.expect([node.name for node in nodes], fresh.blobs)
    with table.live():
        async with watching_logs(context, nodes):
            return list(
                await asyncio.gather(*(Puller(context=context, node=node).run() for node in nodes))
            )


async def _sent(beyond: DemoCluster, registry: DemoNode, least: int) -> int:
    """Return the bytes sent by the registry's own metric, once that is `least` or more."""

    async def has_counted() -> bool:
        return await probe.served(beyond.session, registry.metrics) >= least

    await registry.until(has_counted, "did not count what it sent", deadline=COUNTED)
    return int(await probe.served(beyond.session, registry.metrics))


def _fresh_image_result(
    context: DemoContext, results: list[NodeResult], sent: int
) -> FreshImageResult:
    fresh = context.image
    return FreshImageResult(
        image=fresh.name,
        digest=str(fresh.manifests[0].digest),
        bytes=fresh.size,
        blobs=len(fresh.blobs),
        line_rate=RATE,
        upstream_bytes=sent,
        results=tuple(results),
        tree={
            str(blob.digest): dict(context.table.tree.sources(blob.digest)) for blob in fresh.blobs
        },
    )


def _expected(context: DemoContext, nodes: Sequence[DemoNode]) -> list[tuple[Path, Child]]:
    """Return the manifests and blobs that each node's layout should have."""
    return [(node.layout, child) for node in nodes for child in context.image.all]


async def _verify(expected: Sequence[tuple[Path, Child]], table: ProgressTable) -> list[bool]:
    """Hash all expected content again; return for each whether it is there and right."""
    layouts = len({layout for layout, _ in expected})
    table.say(f"Hashing all {len(expected)} blobs and manifests of {layouts} layouts again.")
    return list(
        await asyncio.gather(*(run(_is_right, layout, child) for layout, child in expected))
    )


def _is_right(layout: Path, child: Child) -> bool:
    try:
        path = layout / "blobs" / child.digest.algorithm / child.digest.hex
        return hash_file(path, child.digest.algorithm) == child.digest.hex
    except OSError:
        return False
