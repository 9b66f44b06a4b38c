"""What a node beside a real containerd has in memory when it idles."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping

from tests.benchmarks import machine, nodes
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Memory
from tests.benchmarks.nodes import Node, Started
from tests.benchmarks.record_table import DISTINCT, KEYS, PEERS, TIMES
from tests.support.containerd import CONTAINERD


async def measure(*, is_quick: bool) -> list[Figure]:
    """Import twenty images into a containerd of its own, start a node on it beside one peer, and
    wait.
    """
    wait = 5.0 if is_quick else 30.0
    if shutil.which(CONTAINERD) is None:
        raise RuntimeError(f"needs root and {CONTAINERD}; set CONTAINERD_BIN to its path")
    async with nodes.containerd() as daemon, nodes.cluster([{}]) as (peer,):
        store = {"containerd-sock": daemon.socket, "containerd-content-path": daemon.content_path}
        node = Node(folder=daemon.folder / "node", store=store, bootstrap=peer.router)
        table = await _record_table()
        try:
            await node.join()
            assert node.started is not None
            await asyncio.sleep(max(0.0, wait - node.started.readyz))
            return [*summarise(machine.memory(node.pid), node.started, wait), *table]
        finally:
            await node.process.end()


def summarise(used: Memory, times: Started, wait: float) -> list[Figure]:
    """Return the figures."""
    conditions = f"{nodes.IMAGES} images, one peer, {wait:.0f} s after exec"
    return [
        Figure(
            name="memory of a containerd node",
            conditions=conditions,
            unit="MB",
            values={"RSS": used.rss, "PSS": used.pss, "anonymous": used.anonymous},
            targets={"RSS": 140.0},
        ),
        Figure(
            name="start of a containerd node",
            conditions="exec to the first 200",
            unit="s",
            values={"livez": times.livez, "readyz": times.readyz, "CPU until ready": times.cpu},
        ),
    ]


async def _record_table() -> list[Figure]:
    """Have a process of its own receive the records of many peers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.record_table",
        cwd=machine.ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return of_table(json.loads(output.splitlines()[-1]))


def of_table(found: Mapping[str, float]) -> list[Figure]:
    """Return the figures of a record table."""
    conditions = (
        f"{PEERS} peers, {KEYS:,} keys each, {DISTINCT:,} different; in a process with libp2p"
    )
    times = {name: seconds * 1e6 for name, seconds in found.items() if name in TIMES}
    return [
        Figure(
            name="memory of the record table",
            conditions=conditions,
            unit="MB",
            values={"gained": found["gained"], "RSS": found["RSS"]},
            targets={"gained": 20.0},
        ),
        Figure(name="record table", conditions=conditions, unit="µs", values=times),
    ]
