"""The demonstration itself: everybody pulls at once; then one more joins, and a node is killed while it serves it; then
an image comes that nobody has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from spegel_py.demo.arrival import arrive
from spegel_py.demo.board import Board
from spegel_py.demo.cluster import Fill, cluster
from spegel_py.demo.content import MB, shown
from spegel_py.demo.node import Node
from spegel_py.demo.outcome import Kill, NodeResult, Outcome
from spegel_py.demo.puller import Killer, Puller, Stage
from spegel_py.demo.watch import watched
from spegel_py.oci.manifest import Child
from spegel_py.tools.files import hash_file
from spegel_py.tools.threads import run


async def play(*, nodes: int, fill: Fill, folder: Path, rate: float, board: Board) -> Outcome:
    """Run all of it in `folder`, `rate` in MB/s; every process has ended when this returns or raises.

    Raises what `fill` raises, and DemoFailed where nodes do not come up.
    """
    began = time.monotonic()
    async with cluster(folder) as made:
        board.say(f"Starting {nodes} nodes; the image is put into node 1 only.")
        first, *others = await made.prepare(nodes)
        content = await made.start_with(fill)
        if len(content.tags) > 1:
            board.say(
                f"Of {len(content.tags)} images the first is shared: {', '.join(content.tags)}"
            )
        stage = Stage(cluster=made, content=content, board=board)
        with board.live():
            await made.joined([first], records=0)
            await made.joined(others, records=stage.keys)
            results = await _everybody(stage, others, rate)
            kill = None
            if not any(result.error for result in results):
                result, kill = await _one_more(stage)
                results.append(result)
        expected = _expected(stage, made.nodes)
        arrival = None
        if not any(result.error for result in results):
            arrival, arrived = await arrive(made, folder=folder, board=board)
            expected += _expected(arrived, made.running)
        right = await _right(expected, board)
    return Outcome(
        image=content.name,
        digest=str(content.manifests[0].digest),
        bytes=content.size,
        blobs=len(content.blobs),
        rate_limit=rate,
        results=tuple(results),
        joiner=made.nodes[-1].name if len(results) == nodes else None,
        kill=kill,
        arrival=arrival,
        reverified=sum(right),
        expected=len(right),
        seconds=time.monotonic() - began,
    )


async def _everybody(stage: Stage, nodes: Sequence[Node], rate: float) -> list[NodeResult]:
    """Have all these nodes pull at the same time, each from another blob on; `rate` is in MB/s."""
    names = ", ".join(node.name for node in nodes)
    stage.board.say(f"Phase 1: {names} pull {shown(stage.content.size)} at the same time.")
    stage.board.expect(
        [node.name for node in nodes], stage.content.blobs, holders=[stage.cluster.nodes[0].name]
    )
    step = len(stage.content.blobs) / len(nodes)
    async with watched(stage, nodes):
        pulls = (
            Puller(stage=stage, node=node, rate=rate * MB).run(round(at * step))
            for at, node in enumerate(nodes)
        )
        return list(await asyncio.gather(*pulls))


async def _one_more(stage: Stage) -> tuple[NodeResult, Kill | None]:
    """Have one more node join and pull, and kill the one that sends it the largest layer."""
    stage.board.say(
        "Phase 2: one more node joins and pulls; the node that sends it the largest layer is killed."
    )
    holders = len(stage.cluster.nodes)
    [joiner] = await stage.cluster.prepare(1)
    await stage.cluster.start([joiner])
    stage.board.expect([joiner.name], stage.content.blobs)
    await stage.cluster.joined([joiner], records=holders * stage.keys)
    killer = Killer(stage=stage, node=joiner)
    async with watched(stage, [joiner]):
        result = await killer.run()
    return result, killer.kill()


def _expected(stage: Stage, nodes: Sequence[Node]) -> list[tuple[Path, Child]]:
    """Return what should be in the layouts of these nodes by now."""
    return [(node.layout, child) for node in nodes for child in stage.content.all]


async def _right(expected: Sequence[tuple[Path, Child]], board: Board) -> list[bool]:
    """Hash everything in all layouts again, and say of each thing that should be there whether it is right."""
    layouts = len({layout for layout, _ in expected})
    board.say(f"Hashing all {len(expected)} blobs and manifests of {layouts} layouts again.")
    return list(
        await asyncio.gather(*(run(_is_right, layout, child) for layout, child in expected))
    )


def _is_right(layout: Path, child: Child) -> bool:
    try:
        path = layout / "blobs" / child.digest.algorithm / child.digest.hex
        return hash_file(path, child.digest.algorithm) == child.digest.hex
    except OSError:
        return False
