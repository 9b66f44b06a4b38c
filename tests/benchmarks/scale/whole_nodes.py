"""Many whole nodes beside one containerd, ours and Spegel's: what each of them weighs.

Ours listen on 127.0.0.1. Spegel tells nobody of such an address, so its nodes listen on an address
that loopback has besides. All are in a network namespace of their own, and of one candidate at a
time. A node of Spegel counts as connected to all once it is ready.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.identity import load_or_create
from tests.benchmarks import client, machine, nodes
from tests.benchmarks.figures import Figure
from tests.benchmarks.routers import free_ports
from tests.support.containerd import Daemon
from tests.support.processes import Process, run, until

OURS, SPEGEL = "spegel-py", "Spegel"
BINARY = os.environ.get("SPEGEL_BIN", "")
"""Spegel's binary; without one only this program is measured."""
HOSTS = {OURS: "127.0.0.1", SPEGEL: "10.77.0.1"}
SETTLE = 15.0
"""Seconds after which starting and joining are over."""
DEADLINE = 600.0
"""Seconds for all nodes to start and to meet."""
WANTED_RSS, WANTED_IDLE = 80.0, 0.35
"""MB and % of a core that a node may have at rest, whatever the number of nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """The nodes of one candidate: means, and the largest where it is named.

    Memory is in MB, `idle` in % of a core, CPU and the rest in seconds.
    """

    candidate: str
    nodes: int
    rss: float
    most_rss: float
    pss: float
    idle: float
    most_idle: float
    cpu: float
    ready: float
    met: float
    threads: float
    descriptors: float
    """Descriptors beyond one for each peer."""


async def prepare_network() -> None:
    """Give loopback Spegel's address; this process must be in a network namespace of its own."""
    await run("ip", "link", "set", "lo", "up")
    await run("ip", "address", "add", f"{HOSTS[SPEGEL]}/32", "dev", "lo")


async def measure(sizes: Sequence[int], *, calm: float) -> list[Weight]:
    """Weigh so many nodes of each candidate, one crowd after the other."""
    found = []
    async with nodes.containerd() as daemon:
        for size in sizes:
            for candidate in (OURS, SPEGEL) if BINARY else (OURS,):
                print(f"{size} nodes of {candidate} …", file=sys.stderr, flush=True)
                found.append(await _weigh(daemon, candidate, size, calm=calm))
    return found


async def _weigh(daemon: Daemon, candidate: str, count: int, *, calm: float) -> Weight:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scale-")))
        crowd = Crowd(candidate, count, daemon, folder)
        stack.push_async_callback(crowd.end)
        began = time.monotonic()
        await crowd.start()
        await until(crowd.are_ready, deadline=DEADLINE, pause=0.5)
        ready = time.monotonic() - began
        await until(crowd.have_met, deadline=DEADLINE, pause=1.0)
        met = time.monotonic() - began
        cpu = statistics.fmean(map(machine.cpu_seconds, crowd.pids))
        await asyncio.sleep(SETTLE)
        idle = await crowd.idle(calm)
        memories = [machine.memory(pid) for pid in crowd.pids]
        return Weight(
            candidate=candidate,
            nodes=count,
            rss=statistics.fmean(each.rss for each in memories),
            most_rss=max(each.rss for each in memories),
            pss=statistics.fmean(each.pss for each in memories),
            idle=statistics.fmean(idle),
            most_idle=max(idle),
            cpu=cpu,
            ready=ready,
            met=met,
            threads=statistics.fmean(map(machine.threads, crowd.pids)),
            descriptors=statistics.fmean(map(machine.descriptors, crowd.pids)) - (count - 1),
        )


class Crowd:
    """Nodes of one candidate that start together beside one containerd."""

    def __init__(self, candidate: str, count: int, daemon: Daemon, folder: Path) -> None:
        self._candidate = candidate
        self._host = HOSTS[candidate]
        ports = iter(free_ports(3 * count))
        self._ports = list(zip(ports, ports, ports, strict=True))
        # Spegel's static bootstrap wants the first node's id: its key is made before.
        data = folder / "node0" / "data"
        data.mkdir(parents=True)
        peer_id = compat.peer_id(load_or_create(data))
        bootstrap = f"/ip4/{self._host}/tcp/{self._ports[0][1]}/p2p/{peer_id}"
        self._processes = [
            self._process(folder / f"node{number}", ports, daemon, bootstrap)
            for number, ports in enumerate(self._ports)
        ]

    def _process(
        self, folder: Path, ports: tuple[int, int, int], daemon: Daemon, bootstrap: str
    ) -> Process:
        folder.mkdir(exist_ok=True)
        registry, router, metrics = ports
        flags = {
            "containerd-sock": daemon.socket,
            "containerd-content-path": daemon.content_path,
            "bootstrap-kind": "static",
            "static-bootstrap-peers": bootstrap,
            "registry-addr": f"{self._host}:{registry}",
            "router-addr": f"{self._host}:{router}",
            "metrics-addr": f"{self._host}:{metrics}",
            "data-dir": folder / "data",
        }
        program = [BINARY] if self._candidate == SPEGEL else [sys.executable, "-m", "spegel_py"]
        options = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
        return Process(
            command=[*program, "registry", *options],
            log=folder / "node.log",
            environment={"PYTHONPATH": str(machine.ROOT)},
        )

    @property
    def pids(self) -> list[int]:
        """The ids of all processes; fails with the log of one that has ended."""
        for process in self._processes:
            assert process.pid is not None, f"{process!r} ended:\n{process.output[-2000:]}"
        return [process.pid for process in self._processes if process.pid is not None]

    async def start(self) -> None:
        """Start all at once, and wait for none."""
        await asyncio.gather(*(process.start(_at_once) for process in self._processes))

    async def end(self) -> None:
        await asyncio.gather(*(process.end() for process in self._processes))

    async def are_ready(self) -> bool:
        """Return True if all are ready, asked one by one, so that asking costs little."""
        for registry, _, _ in self._ports:
            if not await client.answers(registry, "/readyz", host=self._host):
                return False
        return True

    async def have_met(self) -> bool:
        """Return True if each is connected to all others, as far as the candidate says it."""
        if self._candidate == SPEGEL:
            return True
        for _, _, metrics in self._ports:
            if await client.metric(metrics, "spegel_connected_peers") != len(self._ports) - 1:
                return False
        return True

    async def idle(self, seconds: float) -> list[float]:
        """Return the CPU time of each in % of a core."""
        before = list(map(machine.cpu_seconds, self.pids))
        began = time.monotonic()
        await asyncio.sleep(seconds)
        elapsed = time.monotonic() - began
        after = map(machine.cpu_seconds, self.pids)
        return [100 * (late - early) / elapsed for early, late in zip(before, after, strict=True)]


async def _at_once() -> bool:
    return True


def figures(found: Sequence[Weight]) -> list[Figure]:
    """Return the figures of each crowd, and ours beside Spegel's where both are there."""
    theirs = {weight.nodes: weight for weight in found if weight.candidate == SPEGEL}
    return [
        *(figure for weight in found for figure in _of_one(weight)),
        *(
            _ratio(ours, theirs[ours.nodes])
            for ours in found
            if ours.candidate == OURS and ours.nodes in theirs
        ),
    ]


def _ratio(ours: Weight, theirs: Weight) -> Figure:
    return Figure(
        name=f"{OURS} ÷ {SPEGEL}",
        conditions=_conditions(ours.nodes),
        unit="×",
        values={
            "RSS": ours.rss / theirs.rss,
            "idle CPU": ours.idle / max(theirs.idle, 0.01),
            "CPU until all have met": ours.cpu / max(theirs.cpu, 0.01),
        },
        targets={"RSS": 2.0, "idle CPU": 1.5},
    )


def _of_one(weight: Weight) -> list[Figure]:
    is_ours = weight.candidate == OURS
    parts: list[tuple[str, str, dict[str, float], dict[str, float]]] = [
        (
            "memory",
            "MB",
            {"RSS": weight.rss, "most": weight.most_rss, "PSS": weight.pss},
            {"RSS": WANTED_RSS},
        ),
        (
            "idle CPU",
            "% of a core",
            {"mean": weight.idle, "max": weight.most_idle},
            {"mean": WANTED_IDLE},
        ),
        (
            "all started at once",
            "s",
            {
                "all ready": weight.ready,
                "all met": weight.met,
                "CPU of a node until then": weight.cpu,
            },
            {},
        ),
        (
            "threads, and descriptors beyond peers",
            "",
            {"threads": weight.threads, "descriptors": weight.descriptors},
            {},
        ),
    ]
    return [
        Figure(
            name=f"{weight.candidate}: {name}",
            conditions=_conditions(weight.nodes),
            unit=unit,
            values=values,
            targets=targets if is_ours else {},
            samples=weight.nodes,
        )
        for name, unit, values, targets in parts
    ]


def _conditions(count: int) -> str:
    return f"{count} nodes beside one containerd, {nodes.IMAGES} images"
