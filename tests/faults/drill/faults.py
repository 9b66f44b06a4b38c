"""The faults of the drill: broken on entry; mended on exit, by a restart if need be."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.faults import primitives
from tests.faults.drill.cluster import DrillCluster
from tests.faults.drill.crashable import CRASH, HANG
from tests.faults.drill.report import Death
from tests.faults.primitives import NodeFault, filtered, halved, kill
from tests.support.lab import Node
from tests.support.processes import run, until

Fault = Callable[[DrillCluster, Node], AbstractAsyncContextManager[Sequence[Death]]]
"""Breaks the given node, or the cluster. Yields the deaths of nodes that it restarted itself."""

JUMP = 3600
"""Seconds by which the clock is set ahead."""
UP, DOWN = (6.0, 12.0), (2.0, 5.0)
"""Seconds, from and to, that a node is up and down during the churn."""


def _at_victim(fault: NodeFault) -> Fault:
    @asynccontextmanager
    async def broken(cluster: DrillCluster, victim: Node) -> AsyncIterator[Sequence[Death]]:
        async with fault(victim):
            yield ()

    return broken


def _black_hole(node: Node) -> AbstractAsyncContextManager[None]:
    """Drop all requests of other nodes to a node's registry, which libp2p still announces."""
    return filtered(node, f"ip saddr != {node.address} ip daddr {node.address} tcp dport 5000 drop")


@asynccontextmanager
async def _disk_full(node: Node) -> AsyncIterator[None]:
    """Fill the disk of a node's data directory."""
    filler = node.folder / "data" / "filler"
    await asyncio.to_thread(_fill, filler)
    try:
        yield
    finally:
        filler.unlink()


@asynccontextmanager
async def _disk_read_only(node: Node) -> AsyncIterator[None]:
    """Mount the disk of a node's data directory read-only."""
    data = str(node.folder / "data")
    await run("mount", "-o", "remount,ro", data)
    try:
        yield
    finally:
        await run("mount", "-o", "remount,rw", data)


def _signalled(number: signal.Signals) -> NodeFault:
    @asynccontextmanager
    async def broken(node: Node) -> AsyncIterator[None]:
        assert node.spegel
        node.spegel.send(number)
        yield

    return broken


frozen = _at_victim(primitives.frozen)
unplugged = _at_victim(primitives.unplugged)
black_hole = _at_victim(_black_hole)
disk_full = _at_victim(_disk_full)
disk_read_only = _at_victim(_disk_read_only)
libp2p_crashed = _at_victim(_signalled(CRASH))
"""End the Trio side with an exception, while HTTP goes on."""
libp2p_hung = _at_victim(_signalled(HANG))
"""Block the Trio side for ever, while HTTP goes on."""


@asynccontextmanager
async def killed(cluster: DrillCluster, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Kill the victim."""
    await kill(victim)
    yield ()
    await cluster.start(victim)


@asynccontextmanager
async def in_halves(cluster: DrillCluster, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Drop every packet between the halves of the cluster."""
    async with halved(*halves(cluster)):
        yield ()


def halves(cluster: DrillCluster) -> tuple[list[Node], list[Node]]:
    """Return the halves, with one puller in each."""
    return cluster.nodes[0::2], cluster.nodes[1::2]


@asynccontextmanager
async def containerd_killed(cluster: DrillCluster, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Kill the victim's containerd."""
    await victim.daemon.kill()
    yield ()
    await victim.daemon.start()


@asynccontextmanager
async def clock_jumped(cluster: DrillCluster, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Set the victim's wall clock an hour ahead, and back."""
    cluster.set_clock(JUMP)
    try:
        yield ()
    finally:
        cluster.set_clock(0)


@asynccontextmanager
async def rolling_restart(cluster: DrillCluster, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Restart every node in good order, each when the previous node is ready."""
    deaths = []
    for node in cluster.nodes:
        down = time.time()
        await kill(node, signal.SIGTERM)
        await cluster.start(node)
        await until(partial(node.answers, "/readyz"), deadline=30.0, pause=0.1)
        deaths.append(Death(node=node.address, down=down, up=time.time()))
    yield deaths


def churn(seconds: float) -> Fault:
    """Return the fault in which a third of the nodes die and return at random for this long.

    These nodes hold the image that is pulled.
    """

    @asynccontextmanager
    async def coming_and_going(
        cluster: DrillCluster, victim: Node
    ) -> AsyncIterator[Sequence[Death]]:
        rng, end = random.Random(5), time.monotonic() + seconds
        deaths: list[Death] = []
        async with asyncio.TaskGroup() as tasks:
            for node in cluster.nodes[-2:]:
                tasks.create_task(_come_and_go(cluster, node, rng, end, deaths))
        yield deaths

    return coming_and_going


async def _come_and_go(
    cluster: DrillCluster, node: Node, rng: random.Random, end: float, deaths: list[Death]
) -> None:
    await asyncio.sleep(rng.uniform(0, UP[1] / 2))
    with _low_priority(node):
        while time.monotonic() < end:
            down = time.time()
            await kill(node, rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            await asyncio.sleep(rng.uniform(*DOWN))
            await cluster.start(node)
            deaths.append(Death(node=node.address, down=down, up=time.time()))
            await asyncio.sleep(rng.uniform(*UP))


@contextmanager
def _low_priority(node: Node) -> Iterator[None]:
    """Start a node at the lowest priority: in a real cluster it has processors of its own."""
    before = node.under
    node.under = ("nice", "-n", "19", *before)
    try:
        yield
    finally:
        node.under = before


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
