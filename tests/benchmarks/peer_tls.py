"""What TLS between nodes costs: two pairs of nodes, with TLS and without, asked in turns.

No targets.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.digest import Digest
from tests.benchmarks import client, nodes
from tests.benchmarks.figures import Figure, latencies
from tests.benchmarks.nodes import Node
from tests.benchmarks.throughput import ROUNDS, SIZE, Transfer, fetch, write
from tests.support.certificates import Authority

STREAMS = 4
"""Blobs that are pulled at a time while small requests are timed."""
ASKED = 200
"""Small requests beside them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A node with a blob, and one that gets it from there."""

    name: str
    holder: Node
    relay: Node


async def measure(*, is_quick: bool) -> list[Figure]:
    """Fetch one blob through both pairs in turns, and time small requests beside such blobs."""
    size, rounds = (SIZE // 8, 2) if is_quick else (SIZE, 2 * ROUNDS)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-tls-")))
        digest = await asyncio.to_thread(write, folder / "layout", size)
        pairs = [await stack.enter_async_context(_pair(folder, name)) for name in ("plain", "TLS")]
        found: dict[str, list[Transfer]] = {pair.name: [] for pair in pairs}
        for pair in pairs:
            await fetch(pair.relay, pair.holder, digest, size)  # opens the connection
        for _ in range(rounds):
            for pair in pairs:
                found[pair.name].append(await fetch(pair.relay, pair.holder, digest, size))
        beside = {pair.name: await _beside(pair, digest, size) for pair in pairs}
    conditions = f"{size / 1e6:.0f} MB from a peer over loopback, in turns, page cache warm"
    return [
        figure
        for name, transfers in found.items()
        for figure in _figures(name, transfers, beside[name], size, conditions)
    ]


def _figures(
    name: str,
    transfers: Sequence[Transfer],
    beside: Sequence[float],
    size: int,
    conditions: str,
) -> list[Figure]:
    def cost(used: Sequence[float]) -> float:
        return statistics.median(used) / (size / 1e9)

    return [
        Figure(
            name=f"blob by {name}, CPU",
            conditions=conditions,
            unit="s/GB",
            values={
                "sender": cost([each.holder for each in transfers]),
                "receiver": cost([each.asked for each in transfers]),
            },
            samples=len(transfers),
        ),
        Figure(
            name=f"blob by {name}",
            conditions=conditions,
            unit="MB/s",
            values={"median": statistics.median(size / 1e6 / each.seconds for each in transfers)},
            samples=len(transfers),
        ),
        Figure(
            name=f"/v2/ of the sender beside {STREAMS} blobs by {name}",
            conditions=conditions,
            unit="ms",
            values=latencies(beside),
            samples=len(beside),
        ),
    ]


async def _beside(pair: Pair, digest: Digest, size: int) -> list[float]:
    """Return the seconds of small requests to the sender while blobs are pulled."""
    is_over = asyncio.Event()

    async def pull() -> None:
        while not is_over.is_set():
            await fetch(pair.relay, pair.holder, digest, size)

    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(pull())
        await asyncio.sleep(0.5)  # all streams have begun
        timed = await client.time_each(pair.holder.registry, ["/v2/"] * ASKED)
        is_over.set()
    return [each.seconds for each in timed]


@asynccontextmanager
async def _pair(folder: Path, name: str) -> AsyncIterator[Pair]:
    flags: dict[str, object] = {"verify-blobs": "off"}
    if name == "TLS":
        flags["peer-tls"] = Authority().write(folder / "certificates")
    (folder / name).mkdir()
    empty = nodes.layout(folder / name / "empty", {})
    relay = Node(folder=folder / name / "relay", store=empty | flags)
    holder = Node(
        folder=folder / name / "holder",
        store={"oci-layout": folder / "layout", **flags},
        bootstrap=relay.router,
    )
    try:
        await relay.start()
        await holder.join()
        await nodes.told([relay], 1)
        yield Pair(name, holder, relay)
    finally:
        await holder.process.end()
        await relay.process.end()
