"""The cluster of the drill: six nodes with default settings, each of which holds an own image.

Three nodes are prepared for faults, which makes no difference to the other three.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.primitives import small_disk
from tests.integration.chronicles import all_found, history
from tests.integration.cluster import everybody, found, heal, manifest_path, publish, state
from tests.support.clocks import SettableClock
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab

NODES = 6
PULLERS = (1, 2)
"""The indices of the nodes whose containerds pull; all others hold the image that is pulled."""
SMALL_DISK, CLOCK, CRASHABLE = 3, 4, 5
"""The indices of the nodes that are prepared.

They have a small disk below the data directory, a wall clock that can be set, and a libp2p side
that can be crashed.
"""
REST = 120.0
"""Seconds within which a mended cluster must come to rest."""
DISK = "4m"
"""The small disk's size."""


class DrillCluster:
    """A lab with its roles."""

    def __init__(self, *, lab: Lab) -> None:
        self.lab = lab
        self.nodes = lab.nodes
        self.pullers = [lab.nodes[number] for number in PULLERS]
        self.image = image("drill", layers=4, size=400_000)
        self.reference = lab.name("test/drill:1")
        self._own = {node: lab.name(f"test/own:{number}") for number, node in enumerate(lab.nodes)}
        self._ids: dict[Node, str] = {}
        self._clock = SettableClock(lab.nodes[CLOCK].folder)

    async def prepare(self) -> None:
        """Start a node on each machine and give it its images."""
        self.nodes[CRASHABLE].program = "tests.faults.drill.crashable"
        await self._clock.build()
        self.nodes[CLOCK].under = self._clock.prefix
        await heal(self.lab)
        await self.lab.registry.push(self.reference, self.image)
        holders = [node for node in self.nodes if node not in self.pullers]
        await asyncio.gather(*(node.cri.pull(self.reference) for node in holders))
        await asyncio.gather(
            *(found(node, self.reference, self.image.blobs[1:]) for node in self.pullers)
        )
        for number, (node, reference) in enumerate(self._own.items()):
            await publish(self.lab, reference, image(f"own {number}"), node)
        self._ids = {node: str((await self.state(node))["id"]) for node in self.nodes}

    async def start(self, node: Node) -> None:
        """Start a node's spegel-py again, and return when it is live."""
        await node.start_spegel(static_bootstrap_peers=everybody(self.lab))

    async def rest(self) -> None:
        """Mend everything and wait until the cluster is at rest.

        Then each node finds all images, has no open alert, and would miss every other node.
        """
        await heal(self.lab)
        async with asyncio.timeout(REST):
            await self.all_found()
            while not all([await self._is_quiet(node) for node in self.nodes]):
                await asyncio.sleep(0.3)

    async def all_found(self) -> None:
        """Wait until every node finds the own image of each node."""
        await all_found(self.nodes, [manifest_path(reference) for reference in self._own.values()])

    async def state(self, node: Node) -> Mapping[str, Any]:
        """Return a node's `/debug/state`."""
        return await state(node, timeout=5.0)

    def id(self, node: Node) -> str:
        """Return a node's peer id, which survives restarts."""
        return self._ids[node]

    def node(self, peer_id: str) -> Node | None:
        """Return the node with a peer id."""
        return next((node for node, known in self._ids.items() if known == peer_id), None)

    def recorded_alerts(self) -> dict[Node, frozenset[str]]:
        """Return the ids of the alerts in each node's history."""
        return {node: frozenset(alert.id for alert in history(node).alerts) for node in self.nodes}

    def keep_logs(self, folder: Path, name: str) -> None:
        """Copy the nodes' logs and histories."""
        for node in self.nodes:
            kept = folder / name / node.address
            kept.mkdir(parents=True, exist_ok=True)
            for path in (node.folder / "spegel.log", *(node.folder / "data").glob("*.jsonl*")):
                shutil.copy(path, kept)

    def set_clock(self, seconds: int) -> None:
        """Set one node's wall clock ahead by this many seconds."""
        self._clock.set(seconds)

    async def _is_quiet(self, node: Node) -> bool:
        supervision = (await self.state(node))["supervision"]
        would_miss = supervision["isolation"]["known_peers"] == len(self.nodes) - 1
        return would_miss and not supervision["alerts"]


@asynccontextmanager
async def start_cluster() -> AsyncIterator[DrillCluster]:
    """Start the lab with all nodes and their images."""
    async with start_lab(nodes=NODES) as lab:
        cluster = DrillCluster(lab=lab)
        async with small_disk(cluster.nodes[SMALL_DISK].folder / "data", size=DISK):
            await cluster.prepare()
            yield cluster
