"""The demonstration itself: everybody pulls at once; then one more joins, and a node is killed while it serves it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from spegel_py.demo import journal
from spegel_py.demo.board import Board
from spegel_py.demo.cluster import Cluster, cluster, together
from spegel_py.demo.content import MB, Content, shown
from spegel_py.demo.node import Node
from spegel_py.demo.puller import Killer, Puller, Stage
from spegel_py.demo.report import Kill, NodeResult, Outcome
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.pull.blobs import in_thread
from spegel_py.store.layout import LayoutWriter

LOOK = 0.1
"""Seconds between two looks at the logs for who sends what."""

Fill = Callable[[LayoutWriter], Content]
"""Puts the image into the first node's layout. Blocks. Raises ConfigError for an image that is no use."""


async def play(*, nodes: int, fill: Fill, folder: Path, rate: float, board: Board) -> Outcome:
    """Run all of it in `folder`, `rate` in MB/s; every process has ended when this returns or raises.

    Raises what `fill` raises, and DemoFailed where nodes do not come up.
    """
    began = time.monotonic()
    async with cluster(folder) as made:
        board.say(f"Starting {nodes} nodes; the image is put into node 1 only.")
        first, *others = await made.prepare(nodes)
        content = await _start(made, fill)
        if len(content.tags) > 1:
            board.say(f"Of {len(content.tags)} images the first is shared: {', '.join(content.tags)}")
        stage = Stage(cluster=made, content=content, board=board)
        with board.live():
            await made.joined([first], records=0)
            await made.joined(others, records=stage.keys)
            results = await _everybody(stage, others, rate)
            kill = None
            if not any(result.error for result in results):
                result, kill = await _one_more(stage)
                results.append(result)
        right = await _right(stage)
    return Outcome(
        image=content.name,
        digest=str(content.manifests[0].digest),
        bytes=content.size,
        blobs=len(content.blobs),
        rate_limit=rate,
        results=tuple(results),
        joiner=made.nodes[-1].name if len(results) == nodes else None,
        kill=kill,
        reverified=sum(right),
        expected=len(right),
        seconds=time.monotonic() - began,
    )


async def _start(made: Cluster, fill: Fill) -> Content:
    """Start all nodes while the image is being put into the first one's layout; return the image."""
    found: list[Content] = []

    async def put() -> None:
        found.append(await in_thread(fill, LayoutWriter(root=made.nodes[0].layout, is_durable=False)))

    await together(put(), made.start(made.nodes))
    return found[0]


async def _everybody(stage: Stage, nodes: Sequence[Node], rate: float) -> list[NodeResult]:
    """Have all these nodes pull at the same time, each from another blob on; `rate` is in MB/s."""
    names = ", ".join(node.name for node in nodes)
    stage.board.say(f"Phase 1: {names} pull {shown(stage.content.size)} at the same time.")
    stage.board.expect([node.name for node in nodes], stage.content.blobs, holders=[stage.cluster.nodes[0].name])
    step = len(stage.content.blobs) / len(nodes)
    async with _watched(stage, nodes):
        pulls = (Puller(stage=stage, node=node, rate=rate * MB).run(round(at * step)) for at, node in enumerate(nodes))
        return list(await asyncio.gather(*pulls))


async def _one_more(stage: Stage) -> tuple[NodeResult, Kill | None]:
    """Have one more node join and pull, and kill the one that sends it the largest layer."""
    stage.board.say("Phase 2: one more node joins and pulls; the node that sends it the largest layer is killed.")
    holders = len(stage.cluster.nodes)
    [joiner] = await stage.cluster.prepare(1)
    await stage.cluster.start([joiner])
    stage.board.expect([joiner.name], stage.content.blobs)
    await stage.cluster.joined([joiner], records=holders * stage.keys)
    killer = Killer(stage=stage, node=joiner)
    async with _watched(stage, [joiner]):
        result = await killer.run()
    return result, killer.kill()


@asynccontextmanager
async def _watched(stage: Stage, nodes: Sequence[Node]) -> AsyncIterator[None]:
    """Show from the nodes' logs who sends what, while the block lasts."""

    async def look() -> None:
        while True:
            for node in nodes:
                for digest, address in journal.sources(node.tail.read()):
                    stage.board.comes_from(node.name, Digest.parse(digest), stage.cluster.name_of(address))
            await asyncio.sleep(LOOK)

    task = asyncio.create_task(look(), name="log watch")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _right(stage: Stage) -> list[bool]:
    """Hash everything in all layouts again, and say of each thing that should be there whether it is right."""
    expected = [(node.layout, child) for node in stage.cluster.nodes for child in stage.content.all]
    stage.board.say(f"Hashing all {len(expected)} blobs and manifests of {len(stage.cluster.nodes)} layouts again.")
    return list(await asyncio.gather(*(in_thread(_is_right, layout, child) for layout, child in expected)))


def _is_right(layout: Path, child: Child) -> bool:
    try:
        with (layout / "blobs" / child.digest.algorithm / child.digest.hex).open("rb") as file:
            return hashlib.file_digest(file, child.digest.algorithm).hexdigest() == child.digest.hex
    except OSError:
        return False
