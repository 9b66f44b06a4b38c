"""The demonstration's last part: an image that no node has, which all of them pull at once from a registry far away."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from spegel_py.demo import content, probe
from spegel_py.demo.board import Board
from spegel_py.demo.cluster import Cluster, cluster
from spegel_py.demo.content import FRESH_NAME, MB, shown
from spegel_py.demo.line import Line
from spegel_py.demo.node import Node
from spegel_py.demo.outcome import Arrival, NodeResult
from spegel_py.demo.puller import Puller, Stage
from spegel_py.demo.tree import UPSTREAM
from spegel_py.demo.watch import watched

SIZE, LAYERS = 32 * MB, 4
"""Of the image; it is only there to be seen on its way."""

RATE = 10.0
"""MB/s that upstream gives to all together: as slow as is seen, quick enough for the whole to take four seconds."""

COUNTED = 5.0
"""Seconds for the registry's meter to have counted what its clients have: it does when each answer has ended."""


async def arrive(made: Cluster, *, folder: Path, board: Board) -> tuple[Arrival, Stage]:
    """Have all nodes that run pull what only a registry of its own process has; it has ended when this returns.

    Raises DemoFailed where that does not come up.
    """
    nodes = made.running
    board.say(
        f"Phase 3: an image that nobody has; all {len(nodes)} nodes pull it at once from a registry far away."
    )
    async with cluster(folder) as beyond:
        [registry] = await beyond.prepare(1, name=UPSTREAM)
        fresh = await beyond.start_with(
            partial(content.make, size=SIZE, layers=LAYERS, seed="fresh", name=FRESH_NAME)
        )
        async with Line(port=registry.ports.registry, rate=RATE * MB).open() as upstream:
            stage = Stage(cluster=made, content=fresh, board=board, upstream=upstream)
            results = await _all_at_once(stage, nodes)
        sent = await _sent(beyond, registry, sum(result.from_upstream for result in results))
    return _arrival(stage, results, sent), stage


async def _all_at_once(stage: Stage, nodes: list[Node]) -> list[NodeResult]:
    fresh, board = stage.content, stage.board
    board.say(
        f"  {shown(fresh.size)} over a line of {RATE:g} MB/s; the tree says who takes which layer from whom."
    )
    board.expect([node.name for node in nodes], fresh.blobs)
    with board.live():
        async with watched(stage, nodes):
            return list(
                await asyncio.gather(*(Puller(stage=stage, node=node).run() for node in nodes))
            )


async def _sent(beyond: Cluster, registry: Node, least: int) -> int:
    """Return what the registry has sent by its own meter, once that is as much as was received."""

    async def has_counted() -> bool:
        return await probe.served(beyond.session, registry.metrics) >= least

    await registry.until(has_counted, "did not count what it sent", deadline=COUNTED)
    return int(await probe.served(beyond.session, registry.metrics))


def _arrival(stage: Stage, results: list[NodeResult], sent: int) -> Arrival:
    fresh = stage.content
    return Arrival(
        image=fresh.name,
        digest=str(fresh.manifests[0].digest),
        bytes=fresh.size,
        blobs=len(fresh.blobs),
        line_rate=RATE,
        upstream_bytes=sent,
        results=tuple(results),
        tree={
            str(blob.digest): dict(stage.board.tree.sources(blob.digest)) for blob in fresh.blobs
        },
    )
