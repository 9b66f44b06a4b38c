"""What ten nodes with nothing to do cost, and how long a node takes to start."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

from tests.benchmarks import machine, nodes
from tests.benchmarks.figures import Figure, median_and_max
from tests.benchmarks.machine import Memory
from tests.benchmarks.nodes import Node, Started
from tests.support import images

NODES = 10
SETTLE = 10.0
"""Seconds before idling counts as idling: joining and the first announcements are over."""


async def measure(*, is_quick: bool) -> list[Figure]:
    """Start ten nodes with small layouts one after the other, leave them alone, and read their CPU
    time.
    """
    seconds = 15.0 if is_quick else 60.0
    contents = [
        {f"registry.test/bench/n{number}:1": images.image(f"n{number}")} for number in range(NODES)
    ]
    async with nodes.cluster(contents) as cluster:
        await nodes.told(cluster, (NODES - 1) * sum(nodes.records(each) for each in contents))
        await asyncio.sleep(SETTLE)
        used = await _watch(cluster, seconds)
        memories = [machine.memory(node.pid) for node in cluster]
        joined = [node.started for node in cluster if node.started is not None]
    return summarise(used, memories, joined, seconds)


def summarise(
    used: Sequence[float], memories: Sequence[Memory], joined: Sequence[Started], seconds: float
) -> list[Figure]:
    """Return the figures; `used` are shares of a core, the bootstrap node's first."""
    conditions = f"{NODES} nodes with layouts"
    percent = [100 * share for share in used]
    return [
        Figure(
            name="CPU of a node",
            conditions=f"{conditions}, {seconds:.0f} s",
            unit="% of a core",
            values={
                "mean": statistics.fmean(percent),
                "max": max(percent),
                "bootstrap node": percent[0],
            },
            targets={"mean": 1.0, "max": 1.0},
            samples=len(percent),
        ),
        Figure(
            name="memory of a layout node",
            conditions=conditions,
            unit="MB",
            values={
                "RSS median": statistics.median(each.rss for each in memories),
                "max": max(each.rss for each in memories),
                "PSS median": statistics.median(each.pss for each in memories),
                "anonymous": statistics.median(each.anonymous for each in memories),
            },
            samples=len(memories),
        ),
        _start("exec to /livez", [each.livez for each in joined]),
        _start("exec to /readyz", [each.readyz for each in joined]),
        _start("CPU until /readyz", [each.cpu for each in joined]),
    ]


def _start(name: str, seconds: Sequence[float]) -> Figure:
    return Figure(
        name=name,
        conditions="a layout node joins, one at a time",
        unit="s",
        values=median_and_max(seconds),
        samples=len(seconds),
    )


async def _watch(cluster: Sequence[Node], seconds: float) -> list[float]:
    before = [machine.cpu_seconds(node.pid) for node in cluster]
    start = time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - start
    after = [machine.cpu_seconds(node.pid) for node in cluster]
    return [(late - early) / elapsed for early, late in zip(before, after, strict=True)]
