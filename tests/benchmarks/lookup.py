"""How long a lookup takes: from this node's own records, over one hop, and for a key that nobody
has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.figures import Figure, latencies
from tests.benchmarks.routers import RouterProcess, cluster, until

NODES = 5
MESH, HOP = 128, 0
"""Mesh limits: with the first every node tells every other all it holds, with the second never."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One lookup; `first` is None where no peer was found."""

    is_local: bool
    first: float | None
    whole: float


async def measure(*, is_quick: bool) -> list[Figure]:
    """Time lookups of every node's keys from every other node, one at a time."""
    count = 20 if is_quick else 100
    mesh = await _regime(count, mesh_limit=MESH, replication=20)
    hop = await _regime(count, mesh_limit=HOP, replication=1)
    return summarise(*mesh, *hop)


def summarise(
    mesh: Sequence[Sample],
    mesh_absent: Sequence[Sample],
    hop: Sequence[Sample],
    hop_absent: Sequence[Sample],
) -> list[Figure]:
    """Return the figures; of the one-hop regime only keys count that the asking node has no record
    of.
    """
    everybody = f"{NODES} nodes, every record at every node"
    closest = f"{NODES} nodes, mesh limit 0, replication 1"
    remote = [sample for sample in hop if not sample.is_local]
    return [
        _found("from own records", everybody, mesh, 1.0),
        _found(
            "by one hop, to the first peer", f"{closest}; keys not in the own table", remote, 15.0
        ),
        _whole("by one hop, to the end", f"{closest}; keys not in the own table", remote),
        _whole("absent key", everybody, mesh_absent),
        _whole("absent key", closest, hop_absent),
    ]


def _found(name: str, conditions: str, samples: Sequence[Sample], target: float) -> Figure:
    found = [sample.first for sample in samples if sample.first is not None]
    return Figure(
        name=name,
        conditions=conditions,
        unit="ms",
        values=latencies(found) | {"missing": float(len(samples) - len(found))},
        targets={"p50": target, "missing": 0.0},
        samples=len(samples),
    )


def _whole(name: str, conditions: str, samples: Sequence[Sample]) -> Figure:
    times = latencies([sample.whole for sample in samples])
    return Figure(name=name, conditions=conditions, unit="ms", values=times, samples=len(samples))


async def _regime(
    count: int, *, mesh_limit: int, replication: int
) -> tuple[list[Sample], list[Sample]]:
    keys = [
        [f"sha256:{node:032x}{number:032x}" for number in range(count)] for node in range(NODES)
    ]
    absent = [f"sha256:{NODES:032x}{number:032x}" for number in range(count)]
    async with cluster(NODES, mesh_limit=mesh_limit, replication=replication) as nodes:
        for node, own in zip(nodes, keys, strict=True):
            await node.do(do="advertise", keys=own)
        wanted = NODES * count * min(replication, NODES - 1)
        await until(lambda: _told(nodes, wanted), timeout=30)
        await asyncio.sleep(1)  # what the announcements leave to do is not to be measured
        found, missed = [], []
        for number, node in enumerate(nodes):
            others = [key for other, own in enumerate(keys) if other != number for key in own]
            found += await _ask(node, others)
            missed += await _ask(node, absent)
    return found, missed


async def _told(nodes: Sequence[RouterProcess], wanted: int) -> bool:
    held: list[int] = [(await node.do(do="stats"))["records"] for node in nodes]
    return sum(held) == wanted


async def _ask(node: RouterProcess, keys: Sequence[str]) -> list[Sample]:
    answers = await node.do(do="time", keys=keys)
    return [Sample(each["is_local"], each["first"], each["whole"]) for each in answers]
