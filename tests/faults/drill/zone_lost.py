"""The row of the drill in which all nodes of a zone are killed at once: no image may be lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from spegel_py.supervision import conditions
from tests.faults.drill.keeping import (
    KEPT,
    REPAIRED,
    KeepingCluster,
    KeepingRow,
    alerted,
    sighting_of,
)
from tests.faults.drill.keeping_node import GRACE
from tests.faults.drill.report import DrillOutcome, Measure
from tests.integration.cluster import joined, kill_node, metric
from tests.support.lab import Node

ZONES = ("a", "b", "a", "b", "b", "c")
"""The zones of the nodes: more than a fifth of them, and more than two, are in `b`."""

SHORT = 8.0
"""Seconds of the short grace: the nodes learn within three seconds that the whole zone is gone."""

BRAKED = 20.0
"""Seconds for which no byte may move: many scans, and the short grace."""


async def _zone_lost(cluster: KeepingCluster, outcome: DrillOutcome) -> DrillOutcome:
    """Two nodes of a zone pulled images, so both could keep them for nothing. The zone is killed.

    Each image is in another zone too. The other nodes wait for the zone, so that no byte moves, and
    show that many nodes are gone until they are back.
    """
    await _move_in(cluster)
    lost = [node for node, zone in zip(cluster.nodes, ZONES, strict=True) if zone == "b"]
    left = [node for node in cluster.nodes if node not in lost]
    references = await cluster.give(KEPT, "zone", lost[0])
    await asyncio.gather(*(lost[1].cri.pull(reference) for reference in references))
    await cluster.until_kept(references, 2)
    received = await _received(left)
    await asyncio.gather(*map(kill_node, lost))
    seen = await asyncio.gather(
        *(alerted(node, conditions.PARTITIONED, is_open=True) for node in left)
    )
    saved = [one for one in references if set(await cluster.keepers(one)) & set(left)]
    await asyncio.sleep(BRAKED)
    if await _received(left) != received:
        raise AssertionError("images were taken though the zone may be back")
    pulls = await cluster.pulls(references, left)
    await asyncio.gather(*(cluster.restore(node, zone="b") for node in lost))
    moved = Measure(seconds=await cluster.until_kept(references, 2), limit=REPAIRED)
    over = await asyncio.gather(
        *(alerted(node, conditions.PARTITIONED, is_open=False) for node in left)
    )
    sightings = [
        await sighting_of(node, conditions.PARTITIONED, seen[number], over[number])
        for number, node in enumerate(left)
    ]
    return replace(
        outcome,
        moved=moved,
        saved=(len(saved), len(references)),
        pulls=tuple(pulls),
        sightings=tuple(sightings),
    )


async def _move_in(cluster: KeepingCluster) -> None:
    """Start all nodes again, each in its zone."""
    for node in cluster.nodes:
        node.under = ("env", f"{GRACE}={SHORT}", *node.under)
        if node.spegel is not None:
            await node.spegel.end()
    await asyncio.gather(
        *(cluster.restore(node, zone=ZONES[number]) for number, node in enumerate(cluster.nodes))
    )
    await joined(*cluster.nodes)


async def _received(nodes: list[Node]) -> float:
    """Return the bytes that these nodes have taken to keep images."""
    name = "spegel_replica_received_bytes_total"
    return sum([await metric(node, name, source="peer") for node in nodes])


ZONE_ROWS = (KeepingRow(name="zone lost", scenario=_zone_lost, expected=(conditions.PARTITIONED,)),)
