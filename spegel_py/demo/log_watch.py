"""Shows the sources of every blob, read from the nodes' logs while they are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from spegel_py.demo import node_log
from spegel_py.demo.demo_node import DemoNode
from spegel_py.demo.node_log import LogEvent
from spegel_py.demo.puller import DemoContext
from spegel_py.demo.source_tree import UPSTREAM
from spegel_py.oci.digest import Digest

INTERVAL = 0.1
"""Seconds between two reads of the logs."""


@asynccontextmanager
async def watching_logs(context: DemoContext, nodes: Sequence[DemoNode]) -> AsyncIterator[None]:
    """Show the sources that these nodes log, while the block lasts."""
    by_id = context.cluster.by_id()

    async def watch() -> None:
        while True:
            _show_sources(context, nodes, by_id)
            await asyncio.sleep(INTERVAL)

    task = asyncio.create_task(watch(), name="log watch")
    try:
        yield
        _show_sources(context, nodes, by_id)
    finally:
        task.cancel()
        await asyncio.wait([task])


def _show_sources(
    context: DemoContext, nodes: Sequence[DemoNode], by_id: Mapping[str, DemoNode]
) -> None:
    for node in nodes:
        events = node.tail.read()
        for digest, address in node_log.sources(events):
            context.table.record_source(
                node.name, Digest.parse(digest), context.cluster.name_of(address)
            )
        if context.upstream is not None:
            _show_links(context, node, events, by_id)


def _show_links(
    context: DemoContext, node: DemoNode, events: Sequence[LogEvent], by_id: Mapping[str, DemoNode]
) -> None:
    """Put the node's source of each blob into the tree."""
    for digest, peer in node_log.links(events):
        source = by_id.get(peer) if peer else None
        if source or peer is None:
            context.table.record_link(
                node.name, Digest.parse(digest), source.name if source else UPSTREAM
            )
