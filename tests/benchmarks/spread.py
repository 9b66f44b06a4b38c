"""How long it takes until every other node knows of many new digests, and whether each is found
from everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.figures import Figure, median_and_max
from tests.benchmarks.routers import RouterProcess, cluster, until

NODES = 5
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Round:
    """One time of telling `keys` digests and taking them back; `missing` were not found from some
    node.
    """

    keys: int
    told: float
    withdrawn: float
    missing: int


async def measure(*, is_quick: bool) -> list[Figure]:
    """Advertise at one node of five and look every digest up from each of the others."""
    rounds = 1 if is_quick else ROUNDS
    async with cluster(NODES, mesh_limit=128) as nodes:
        thousand = [
            await _round(nodes, 1_000, copies=NODES - 1, salt=number) for number in range(rounds)
        ]
        many = [
            await _round(nodes, 10_000, copies=NODES - 1, salt=number) for number in range(rounds)
        ]
    async with cluster(NODES, mesh_limit=0, replication=2) as nodes:
        hop = [
            await _round(nodes, 100 if is_quick else 1_000, copies=2, salt=number)
            for number in range(rounds)
        ]
    everybody = f"to {NODES - 1} peers, all of it to each"
    return [
        *summarise(thousand, everybody, target=2.0),
        *summarise(many, everybody, target=10.0),
        *summarise(hop, "mesh limit 0, replication 2", target=None),
    ]


def summarise(rounds: Sequence[Round], conditions: str, *, target: float | None) -> list[Figure]:
    """Return the figures of rounds of one size."""
    keys = rounds[0].keys
    count = len(rounds)
    lookups = keys * (NODES - 1) * count
    lost = float(sum(one.missing for one in rounds))
    told = median_and_max([one.told for one in rounds])
    gone = median_and_max([one.withdrawn for one in rounds])
    limit = {} if target is None else {"max": target}
    name = f"{keys:,} digests"
    return [
        Figure(
            name=f"{name} advertised",
            conditions=conditions,
            unit="s",
            values=told,
            targets=limit,
            samples=count,
        ),
        Figure(
            name=f"{name} withdrawn", conditions=conditions, unit="s", values=gone, samples=count
        ),
        Figure(
            name=f"{name} looked up from {NODES - 1} nodes",
            conditions=conditions,
            unit="",
            values={"missing": lost},
            targets={"missing": 0.0},
            samples=lookups,
        ),
    ]


async def _round(nodes: Sequence[RouterProcess], count: int, *, copies: int, salt: int) -> Round:
    keys = [f"sha256:{count:016x}{salt:016x}{number:032x}" for number in range(count)]
    holder, others = nodes[0], nodes[1:]
    told = await _timed(holder, others, "advertise", keys, count * copies)
    missing = sum([await _missing(node, keys, holder.port) for node in others])
    withdrawn = await _timed(holder, others, "withdraw", keys, 0)
    return Round(count, told, withdrawn, missing)


async def _timed(
    holder: RouterProcess,
    others: Sequence[RouterProcess],
    what: str,
    keys: Sequence[str],
    wanted: int,
) -> float:
    start = time.monotonic()
    await holder.do(do=what, keys=keys)

    async def done() -> bool:
        held: list[int] = [(await node.do(do="stats"))["records"] for node in others]
        return sum(held) == wanted

    await until(done, timeout=60)
    return time.monotonic() - start


async def _missing(node: RouterProcess, keys: Sequence[str], port: int) -> int:
    return sum(port not in ports for ports, _ in await node.do(do="lookup", keys=keys))
