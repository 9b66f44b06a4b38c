"""Containerds that pull one image, delete it, and pull it again, while a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.drill.cluster import DrillCluster
from tests.faults.pulls import Attempt, attempt
from tests.lab import Node

PAUSE = 0.2
"""Seconds between two pulls of one node."""


@asynccontextmanager
async def pulling(cluster: DrillCluster) -> AsyncIterator[list[Attempt]]:
    """Pull on all pullers, and yield the list to which each finished pull is added."""
    pulls: list[Attempt] = []
    over = asyncio.Event()

    async def keep_pulling(node: Node) -> None:
        while not over.is_set():
            pulls.append(await attempt(node, cluster.reference))
            # containerd collects its garbage before it answers
            await node.cri.remove(cluster.reference)
            await asyncio.sleep(PAUSE)

    tasks = [asyncio.create_task(keep_pulling(node)) for node in cluster.pullers]
    try:
        yield pulls
    finally:
        over.set()
        await asyncio.gather(*tasks)
