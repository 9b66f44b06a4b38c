"""What strikes in the middle of a crowd's pulls: broken when entered, mended when left, unless by a new start."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from tests.faults.chaos.links import filtered, halved
from tests.faults.crowd.ground import Ground
from tests.integration.cluster import joined
from tests.lab import REGISTRY, Node
from tests.processes import run

JOINED = 3.0
"""Seconds after which halves are joined again: both have fetched a good part by then."""

Fault = Callable[[Ground], AbstractAsyncContextManager[Collection[Node]]]
"""Breaks something, and yields the machines whose own pull may fail for it: their containerd or upstream is broken."""

HOST = REGISTRY.partition(":")[0]


async def _kill(node: Node) -> None:
    assert node.spegel
    await node.spegel.end(signal.SIGKILL)


@asynccontextmanager
async def nothing(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Break nothing."""
    yield ()


@asynccontextmanager
async def leader_mirror_killed(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Kill the mirror of who fetches; its containerd goes on."""
    await _kill(await ground.leader())
    yield ()


@asynccontextmanager
async def leader_containerd_killed(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Kill the containerd that fetches."""
    leader = await ground.leader()
    await leader.daemon.kill()
    yield (leader,)


@asynccontextmanager
async def leader_lost(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Take away the whole machine that fetches."""
    leader = await ground.leader()
    await leader.namespace.plug(is_in=False)
    await asyncio.gather(leader.daemon.kill(), _kill(leader))
    try:
        yield (leader,)
    finally:
        await leader.namespace.plug(is_in=True)


@asynccontextmanager
async def inner_killed(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Kill a mirror that takes from one node and gives to another."""
    await _kill(await ground.inner())
    yield ()


@asynccontextmanager
async def coordinator_killed(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Kill the mirror that keeps the book."""
    await _kill(ground.coordinator())
    yield ()


@asynccontextmanager
async def coordinator_then_leader_killed(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Kill the mirror that keeps the book, and a second later that of who fetches."""
    leader, coordinator = await ground.leader(), ground.coordinator()
    await _kill(coordinator)
    await asyncio.sleep(1)
    if leader is not coordinator:
        await _kill(leader)
    yield ()


@asynccontextmanager
async def upstream_black_hole(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Drop every packet between the registry and who fetches from it."""
    leader = await ground.leader()
    async with filtered([leader], f"ip saddr {HOST} drop", f"ip daddr {HOST} drop"):
        yield (leader,)


@asynccontextmanager
async def upstream_reset(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Reset the connections to the registry of who fetches, which ends its pull as it does without a mirror."""
    leader = await ground.leader()
    await run(*leader.namespace.prefix, "ss", "-K", "-tn", "dst", HOST)
    yield (leader,)


@asynccontextmanager
async def leader_slow(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Let little reach who fetches: 1 MB/s."""
    leader = await ground.leader()
    await leader.namespace.limit("8mbit")
    try:
        yield ()
    finally:
        await run(
            "tc",
            "-n",
            leader.namespace.switch,
            "qdisc",
            "del",
            "dev",
            leader.namespace.port,
            "root",
        )


@asynccontextmanager
async def registry_restarted(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Stop the registry for a second: without a mirror every pull fails of that."""
    await ground.lab.registry.stop()
    await asyncio.sleep(1)
    await ground.lab.registry.start()
    yield ground.nodes


@asynccontextmanager
async def halves(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Cut the machines into halves, which both reach the registry."""
    half = len(ground.nodes) // 2
    async with halved(ground.nodes[:half], ground.nodes[half:]):
        yield ()


@asynccontextmanager
async def halves_joined(ground: Ground) -> AsyncIterator[Collection[Node]]:
    """Begin in halves that have lost each other, each with a leader of its own, and join them while both fetch."""
    half = len(ground.nodes) // 2
    halves = ground.nodes[:half], ground.nodes[half:]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(halved(*halves))
        await asyncio.gather(*(joined(*nodes, deadline=30) for nodes in halves))
        joining = asyncio.create_task(_end_after(stack, JOINED))
        try:
            yield ()
        finally:
            await joining


async def _end_after(stack: AsyncExitStack, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await stack.aclose()
