"""What is done to the cluster: broken when entered, mended when left, where starting again is mending."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from tests.faults.chaos.links import filtered, halved
from tests.faults.drill import ground as on
from tests.faults.drill.ground import Ground
from tests.faults.drill.operated import CRASH, HANG
from tests.faults.drill.report import Death
from tests.lab import Node
from tests.processes import run

Fault = Callable[[Ground, Node], AbstractAsyncContextManager[Sequence[Death]]]
"""Breaks something, of the given node where it is about one. Yields the deaths of nodes, each with when it was started
again."""

JUMP = 3600
UP, DOWN = (6.0, 12.0), (2.0, 5.0)
"""Seconds for which a node is up, and down, while nodes come and go."""


@asynccontextmanager
async def killed(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Kill -9."""
    await on.kill(victim)
    yield ()
    await ground.start(victim)


@asynccontextmanager
async def frozen(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Stop the process: its connections stay, and nothing comes."""
    assert victim.spegel
    victim.spegel.send(signal.SIGSTOP)
    try:
        yield ()
    finally:
        victim.spegel.send(signal.SIGCONT)


@asynccontextmanager
async def unplugged(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Pull the cable."""
    await victim.namespace.plug(is_in=False)
    try:
        yield ()
    finally:
        await victim.namespace.plug(is_in=True)


@asynccontextmanager
async def in_halves(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Drop every packet between the halves of the cluster."""
    async with halved(*halves(ground)):
        yield ()


def halves(ground: Ground) -> tuple[list[Node], list[Node]]:
    """Return the halves: one puller in each."""
    return ground.nodes[0::2], ground.nodes[1::2]


@asynccontextmanager
async def black_hole(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Drop what comes to the victim's registry from others; libp2p goes on, and announces it."""
    async with filtered(
        [victim], f"ip saddr != {victim.address} ip daddr {victim.address} tcp dport 5000 drop"
    ):
        yield ()


@asynccontextmanager
async def containerd_killed(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Kill -9 the victim's containerd."""
    await victim.daemon.kill()
    yield ()
    await victim.daemon.start()


@asynccontextmanager
async def disk_full(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Fill the disk of the victim's data directory."""
    filler = victim.folder / "data" / "filler"
    await asyncio.to_thread(_fill, filler)
    try:
        yield ()
    finally:
        filler.unlink()


@asynccontextmanager
async def disk_read_only(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Mount the disk of the victim's data directory read-only."""
    data = str(victim.folder / "data")
    await run("mount", "-o", "remount,ro", data)
    try:
        yield ()
    finally:
        await run("mount", "-o", "remount,rw", data)


@asynccontextmanager
async def libp2p_crashed(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Have an exception end the Trio side, while HTTP goes on."""
    assert victim.spegel
    victim.spegel.send(CRASH)
    yield ()


@asynccontextmanager
async def libp2p_hung(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Block the Trio side for ever, while HTTP goes on."""
    assert victim.spegel
    victim.spegel.send(HANG)
    yield ()


@asynccontextmanager
async def clock_jumped(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Set the victim's wall clock an hour ahead, and back."""
    ground.set_clock(JUMP)
    try:
        yield ()
    finally:
        ground.set_clock(0)


@asynccontextmanager
async def rolling_restart(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
    """Restart every node in good order, each when the one before is ready."""
    deaths = []
    for node in ground.nodes:
        down = time.time()
        await on.kill(node, signal.SIGTERM)
        await ground.start(node)
        await on.ready([node])
        deaths.append(Death(node=node.address, down=down, up=time.time()))
    yield deaths


def churn(seconds: float) -> Fault:
    """Return the fault: for so long, a third of the nodes, which hold what is pulled, die and come back at random."""

    @asynccontextmanager
    async def coming_and_going(ground: Ground, victim: Node) -> AsyncIterator[Sequence[Death]]:
        rng = random.Random(5)
        deaths: list[Death] = []
        async with asyncio.TaskGroup() as tasks:
            for node in ground.nodes[-2:]:
                tasks.create_task(
                    _come_and_go(ground, node, rng, time.monotonic() + seconds, deaths)
                )
        yield deaths

    return coming_and_going


async def _come_and_go(
    ground: Ground, node: Node, rng: random.Random, end: float, deaths: list[Death]
) -> None:
    await asyncio.sleep(rng.uniform(0, UP[1] / 2))
    with _standing_back(node):
        while time.monotonic() < end:
            down = time.time()
            await on.kill(node, rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            await asyncio.sleep(rng.uniform(*DOWN))
            await ground.start(node)
            deaths.append(Death(node=node.address, down=down, up=time.time()))
            await asyncio.sleep(rng.uniform(*UP))


@contextmanager
def _standing_back(node: Node) -> Iterator[None]:
    """Let a node take what processor time the others leave when it starts: in a cluster it has its own to start on."""
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
