"""What a peer costs a node that is up: CPU seconds to meet it, and memory to keep it.

`python -m tests.benchmarks.joining [--peers 8] [--against CHECKOUT]`. As many routers as `--peers`
mesh first, then as many join through the first one. The figures are those of the first ones, which
all meet the others. With `--against` the same runs with the code of another checkout (a worktree of
an older commit), one after the other, and the ratio is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import machine, routers
from tests.benchmarks.report import aligned
from tests.benchmarks.routers import ROOT, RouterProcess

SETTLE = 8.0
"""Seconds after the last connection until its exchanges are over: peers are asked for others."""
MESH_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one peer costs one node; `joined` are the seconds until all were connected."""

    cpu_ms: float
    resident_kb: float
    anonymous_kb: float
    joined: float


async def measure(peers: int, *, root: Path = ROOT) -> Cost:
    """Return the cost of a peer with the code of a checkout."""
    first = routers.free_port()
    async with AsyncExitStack() as stack:

        async def start(count: int) -> list[RouterProcess]:
            started: list[RouterProcess] = []
            for _ in range(count):
                port = routers.free_port() if running or started else first
                one = await routers.start(port, first, mesh_limit=MESH_LIMIT, root=root)
                stack.push_async_callback(one.end)
                started.append(one)
            return started

        async def meshed() -> bool:
            return await routers.have_peers(running, len(running) - 1)

        running: list[RouterProcess] = []
        running += await start(peers)
        await routers.until(meshed, timeout=120, interval=0.25)
        await asyncio.sleep(SETTLE)
        met = running[:]
        idle = -_cpu(met)
        await asyncio.sleep(SETTLE)
        idle += _cpu(met)
        memory, cpu = _memory(met), _cpu(met)
        running += await start(peers)
        joined = await routers.until(meshed, timeout=120, interval=0.25)
        await asyncio.sleep(SETTLE)
        cpu, memory_now = _cpu(met) - cpu, _memory(met)
    pairs = peers * peers
    return Cost(
        cpu_ms=(cpu - idle * (joined + SETTLE) / SETTLE) / pairs * 1e3,
        resident_kb=(memory_now[0] - memory[0]) / peers * 1e3,
        anonymous_kb=(memory_now[1] - memory[1]) / peers * 1e3,
        joined=joined,
    )


def _cpu(nodes: Sequence[RouterProcess]) -> float:
    return sum(machine.cpu_seconds(node.pid) for node in nodes)


def _memory(nodes: Sequence[RouterProcess]) -> tuple[float, float]:
    found = [machine.memory(node.pid) for node in nodes]
    return statistics.fmean(each.rss for each in found), statistics.fmean(
        each.anonymous for each in found
    )


def _row(name: str, cost: Cost) -> list[str]:
    numbers = (cost.cpu_ms, cost.resident_kb, cost.anonymous_kb, cost.joined)
    return [name, *(f"{number:.1f}" for number in numbers)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.joining", description="Measure the cost of a peer."
    )
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    options = parser.parse_args(arguments)
    rows = [["code", "CPU ms a peer", "RSS kB a peer", "anonymous kB", "s to join"]]
    now = asyncio.run(measure(options.peers))
    if options.against:
        before = asyncio.run(measure(options.peers, root=options.against.resolve()))
        rows.append(_row(str(options.against), before))
    rows.append(_row("this checkout", now))
    print(aligned(rows))
    if options.against:
        print(
            f"ratio: CPU {now.cpu_ms / before.cpu_ms:.2f}, "
            f"memory {now.resident_kb / max(before.resident_kb, 0.1):.2f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
