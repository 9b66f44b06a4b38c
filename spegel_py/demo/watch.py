"""Who sends what, as the nodes' own logs say it, brought to the board while it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from spegel_py.demo import journal
from spegel_py.demo.journal import Event
from spegel_py.demo.node import Node
from spegel_py.demo.puller import Stage
from spegel_py.demo.tree import UPSTREAM
from spegel_py.oci.digest import Digest

LOOK = 0.1
"""Seconds between two looks at the logs."""


@asynccontextmanager
async def watched(stage: Stage, nodes: Sequence[Node]) -> AsyncIterator[None]:
    """Show from these nodes' logs who sends what, while the block lasts."""
    by_id = stage.cluster.by_id()

    async def look() -> None:
        while True:
            _look(stage, nodes, by_id)
            await asyncio.sleep(LOOK)

    task = asyncio.create_task(look(), name="log watch")
    try:
        yield
        _look(stage, nodes, by_id)
    finally:
        task.cancel()
        await asyncio.wait([task])


def _look(stage: Stage, nodes: Sequence[Node], by_id: Mapping[str, Node]) -> None:
    for node in nodes:
        events = node.tail.read()
        for digest, address in journal.sources(events):
            stage.board.comes_from(node.name, Digest.parse(digest), stage.cluster.name_of(address))
        if stage.upstream is not None:
            _draw(stage, node, events, by_id)


def _draw(stage: Stage, node: Node, events: Sequence[Event], by_id: Mapping[str, Node]) -> None:
    """Put into the tree whom the node takes each blob from."""
    for digest, peer in journal.links(events):
        source = by_id.get(peer) if peer else None
        if source or peer is None:
            stage.board.takes(node.name, Digest.parse(digest), source.name if source else UPSTREAM)
