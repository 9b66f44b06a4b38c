"""How fast a large blob comes out of a node, from its own disk and from a peer, and what CPU that
costs. No targets.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.digest import Digest
from spegel_py.store.layout import LayoutWriter
from tests.benchmarks import client, machine, nodes
from tests.benchmarks.figures import Figure
from tests.benchmarks.nodes import Node

SIZE = 256 * 10**6
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Transfer:
    """One body: wall-clock seconds at the client, CPU seconds at the node it asked and at the node
    that holds it.
    """

    seconds: float
    asked: float
    holder: float


async def measure(*, is_quick: bool) -> list[Figure]:
    """Fetch one blob from the node that holds it and, in turns, through a node that does not."""
    size, rounds = (SIZE // 8, 2) if is_quick else (SIZE, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="bench-blob-") as folder:
        digest = await asyncio.to_thread(write, Path(folder, "layout"), size)
        async with nodes.cluster([{}]) as (relay,):
            holder = Node(
                folder=Path(folder, "node"),
                store={"oci-layout": Path(folder, "layout")},
                bootstrap=relay.router,
            )
            try:
                await holder.join()
                await nodes.told([relay], 1)
                await fetch(relay, holder, digest, size)  # opens the connection between the two
                local = [await fetch(holder, holder, digest, size) for _ in range(rounds)]
                relayed = [await fetch(relay, holder, digest, size) for _ in range(rounds)]
            finally:
                await holder.process.end()
    return summarise(local, relayed, size)


def summarise(local: Sequence[Transfer], relayed: Sequence[Transfer], size: int) -> list[Figure]:
    """Return the figures, medians of all transfers of one blob."""
    conditions = f"{size / 1e6:.0f} MB over loopback, one client, page cache warm"
    figures = []
    for name, transfers in (("local blob", local), ("relayed blob", relayed)):
        rates = [size / 1e6 / each.seconds for each in transfers]
        costs = {"asked node": [each.asked for each in transfers]}
        if name == "relayed blob":
            costs["holder"] = [each.holder for each in transfers]
        figures += [
            Figure(
                name=name,
                conditions=conditions,
                unit="MB/s",
                values={"median": statistics.median(rates), "min": min(rates)},
                samples=len(transfers),
            ),
            Figure(
                name=f"{name}, CPU",
                conditions=conditions,
                unit="s/GB",
                values={who: statistics.median(used) / (size / 1e9) for who, used in costs.items()},
                samples=len(transfers),
            ),
        ]
    return figures


async def fetch(asked: Node, holder: Node, digest: Digest, size: int) -> Transfer:
    path = f"/v2/bench/app/blobs/{digest}?ns=registry.test"
    before = machine.cpu_seconds(asked.pid), machine.cpu_seconds(holder.pid)
    start = time.perf_counter()
    got = await asyncio.to_thread(_get, asked.registry, path)
    seconds = time.perf_counter() - start
    if got != (200, size):
        raise AssertionError(f"{path}: {got}, expected all {size} bytes")
    return Transfer(
        seconds,
        machine.cpu_seconds(asked.pid) - before[0],
        machine.cpu_seconds(holder.pid) - before[1],
    )


def _get(port: int, path: str) -> tuple[int, int]:
    with client.Client(port) as one:
        return one.get(path)


def write(root: Path, size: int) -> Digest:
    piece = os.urandom(1 << 20)
    data = (piece * (size // len(piece) + 1))[:size]
    return LayoutWriter.create(root=root, is_durable=False).put(data)
