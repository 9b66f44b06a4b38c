"""What a node beside a real containerd has in memory when it idles."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.benchmarks import machine, nodes
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Memory
from tests.benchmarks.nodes import Node, Started
from tests.support import images
from tests.support.containerd import CONTAINERD, Daemon

IMAGES = 20


async def measure(*, is_quick: bool) -> list[Figure]:
    """Import twenty images into a containerd of its own, start a node on it beside one peer, and
    wait.
    """
    wait = 5.0 if is_quick else 30.0
    if shutil.which(CONTAINERD) is None:
        raise RuntimeError(f"needs root and {CONTAINERD}; set CONTAINERD_BIN to its path")
    async with _containerd() as daemon, nodes.cluster([{}]) as (peer,):
        store = {"containerd-sock": daemon.socket, "containerd-content-path": daemon.content_path}
        node = Node(folder=daemon.folder / "node", store=store, bootstrap=peer.router)
        try:
            await node.join()
            assert node.started is not None
            await asyncio.sleep(max(0.0, wait - node.started.readyz))
            return summarise(machine.memory(node.pid), node.started, wait)
        finally:
            await node.process.end()


def summarise(used: Memory, times: Started, wait: float) -> list[Figure]:
    """Return the figures."""
    conditions = f"{IMAGES} images, one peer, {wait:.0f} s after exec"
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


@asynccontextmanager
async def _containerd() -> AsyncIterator[Daemon]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-containerd-")))
        daemon = Daemon(folder=folder, has_cri=False)
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        await daemon.load(
            {
                f"registry.test/bench/app:{each}": images.image(f"app {each}")
                for each in range(IMAGES)
            }
        )
        yield daemon
