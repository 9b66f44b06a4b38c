"""Clusters of up to 5,000 nodes on a virtual clock: the watching of peers, as its own benchmark
simulates it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.figures import Figure

SIMULATION = "tests.benchmarks.swim"


async def measure(sizes: Sequence[int]) -> list[Figure]:
    """Simulate clusters of these sizes. Raises RuntimeError if there is no simulation."""
    if importlib.util.find_spec(SIMULATION) is None:
        raise RuntimeError(f"there is no {SIMULATION}")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        SIMULATION,
        "--json",
        "--sizes",
        *map(str, sizes),
        cwd=machine.ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return [figure_of(json.loads(line)) for line in output.splitlines()]


def figure_of(row: Mapping[str, Any]) -> Figure:
    """Return the figure of one scenario."""
    seconds = dict(zip(("p50", "p99", "max"), row["seconds"] or (), strict=False))
    return Figure(
        name=row["scenario"],
        conditions=f"{row['nodes']:,} nodes in virtual time, 5 % loss",
        unit="",
        values={
            **{f"{name} s": value for name, value in seconds.items()},
            "not dropped": float(row["missed"]),
            "wrongly dropped": float(row["dropped"]),
            "messages a second": float(row["messages"]),
        },
        targets={"not dropped": 0.0, "wrongly dropped": 0.0},
    )
