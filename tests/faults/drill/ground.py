"""Six machines and a registry, spegel-py with its defaults on each; every node holds an image that no other has.

What a fault needs is prepared on the last three: that no other node has it makes no difference to them.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import struct
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.chaos.content import small_disk
from tests.images import image
from tests.integration.chronicles import all_found, history
from tests.integration.cluster import everybody, found, heal, manifest_path, publish, state
from tests.lab import Lab, Node, start_lab
from tests.processes import run, until

NODES = 6
PULLERS = (1, 2)
"""The numbers, from 0, of those whose containerds pull; all others hold what is pulled."""
SMALL_DISK, CLOCK, OPERATED = 3, 4, 5
"""Those with a small disk below the data directory, with a wall clock that can be set, and that can be operated on."""
QUIET = 120.0
"""Seconds after which a cluster must have come to rest, all healed."""
DISK = "4m"
"""The small disk's size."""


class Ground:
    """A lab with its roles."""

    def __init__(self, *, lab: Lab) -> None:
        self.lab = lab
        self.nodes = lab.nodes
        self.pullers = [lab.nodes[number] for number in PULLERS]
        self._clock = lab.nodes[CLOCK]
        self.image = image("drill", layers=4, size=400_000)
        self.reference = lab.name("test/drill:1")
        self._own = {node: lab.name(f"test/own:{number}") for number, node in enumerate(lab.nodes)}
        self._ids: dict[Node, str] = {}
        self._ahead = self._clock.folder / "ahead"

    def __repr__(self) -> str:
        return f"<Ground of {self.nodes}>"

    async def prepare(self) -> None:
        """Start a node on each machine and give them what they hold."""
        self.nodes[OPERATED].program = "tests.faults.drill.operated"
        await self._build_clock()
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
        """Heal everything and wait until all find all, no alert is open, and a peer that goes would be missed."""
        await heal(self.lab)
        async with asyncio.timeout(QUIET):
            await self.all_found()
            while not all([await self._is_quiet(node) for node in self.nodes]):
                await asyncio.sleep(0.3)

    async def all_found(self) -> None:
        """Wait until every node finds what each of them holds."""
        await all_found(self.nodes, [manifest_path(reference) for reference in self._own.values()])

    async def state(self, node: Node) -> Mapping[str, Any]:
        """Return what a node says of itself."""
        return await state(node, timeout=5.0)

    def id(self, node: Node) -> str:
        """Return a node's peer id, which it keeps."""
        return self._ids[node]

    def node(self, peer_id: str) -> Node | None:
        """Return the node with a peer id."""
        return next((node for node, known in self._ids.items() if known == peer_id), None)

    def written(self) -> dict[Node, frozenset[str]]:
        """Return the ids of the alerts that each node has written down."""
        return {node: frozenset(alert.id for alert in history(node).alerts) for node in self.nodes}

    def set_clock(self, seconds: int) -> None:
        """Let the wall clock of its node be ahead by so many seconds."""
        with self._ahead.open("r+b") as file:
            file.write(struct.pack("q", seconds))

    async def _build_clock(self) -> None:
        library = self._clock.folder / "clock.so"
        await run(
            "gcc",
            "-shared",
            "-fPIC",
            "-O2",
            "-o",
            str(library),
            str(Path(__file__).with_name("clock.c")),
        )
        self._ahead.write_bytes(struct.pack("q", 0))
        self._clock.under = ("env", f"LD_PRELOAD={library}", f"CLOCK_AHEAD={self._ahead}")

    async def _is_quiet(self, node: Node) -> bool:
        supervision = (await self.state(node))["supervision"]
        would_miss = supervision["isolation"]["known_peers"] == len(self.nodes) - 1
        return would_miss and not supervision["alerts"]


@asynccontextmanager
async def start_ground() -> AsyncIterator[Ground]:
    """Start the lab with everything on it."""
    async with start_lab(nodes=NODES) as lab:
        ground = Ground(lab=lab)
        async with small_disk(ground.nodes[SMALL_DISK].folder / "data", size=DISK):
            await ground.prepare()
            yield ground


def keep_logs(ground: Ground, folder: Path, name: str) -> None:
    """Copy what the nodes logged and wrote down."""
    for node in ground.nodes:
        kept = folder / name / node.address
        kept.mkdir(parents=True, exist_ok=True)
        for path in (node.folder / "spegel.log", *(node.folder / "data").glob("*.jsonl*")):
            shutil.copy(path, kept)


async def kill(node: Node, number: signal.Signals = signal.SIGKILL) -> None:
    """End a node's spegel-py, by kill -9 if nothing else is said."""
    assert node.spegel
    await node.spegel.end(number)


async def ready(nodes: Collection[Node], *, deadline: float = 30.0) -> None:
    """Wait until these nodes have a peer."""

    async def are_ready() -> bool:
        return all([(await node.get("/readyz")).status == 200 for node in nodes])

    await until(are_ready, deadline=deadline, pause=0.1)


def now() -> float:
    """Return the monotonic time; all measures are taken on one machine."""
    return time.monotonic()
