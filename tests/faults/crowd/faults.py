"""The faults of crowd: broken on entry; mended on exit, unless a restart mends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from tests.faults.crowd.cluster import HOST, CrowdCluster
from tests.faults.primitives import NodeFault, filtered, halved, kill, killed, unplugged
from tests.integration.cluster import joined, limited
from tests.support.lab import Node
from tests.support.processes import run

JOINED_AFTER = 3.0
"""Seconds after which halves are joined: by then both have fetched much of the layer."""

Fault = Callable[[CrowdCluster], AbstractAsyncContextManager[Collection[Node]]]
"""Breaks something, and yields the machines whose own pull may fail.

These are the machines whose containerd or upstream is broken.
"""


def _at(
    select: Callable[[CrowdCluster], Awaitable[Node]], fault: NodeFault, *, is_excused: bool = False
) -> Fault:
    """Return the fault of the machine that `select` returns; its own pull may fail if excused."""

    @asynccontextmanager
    async def broken(cluster: CrowdCluster) -> AsyncIterator[Collection[Node]]:
        node = await select(cluster)
        async with fault(node):
            yield (node,) if is_excused else ()

    return broken


@asynccontextmanager
async def _containerd_killed(node: Node) -> AsyncIterator[None]:
    await node.daemon.kill()
    yield


@asynccontextmanager
async def _lost(node: Node) -> AsyncIterator[None]:
    async with unplugged(node):
        await asyncio.gather(node.daemon.kill(), kill(node))
        yield


@asynccontextmanager
async def _upstream_reset(node: Node) -> AsyncIterator[None]:
    """Reset a node's connections to the registry; without a mirror this fails its pull."""
    await run(*node.namespace.prefix, "ss", "-K", "-tn", "dst", HOST)
    yield


_leader, _coordinator = CrowdCluster.leader, CrowdCluster.coordinator

leader_mirror_killed = _at(_leader, killed)
leader_containerd_killed = _at(_leader, _containerd_killed, is_excused=True)
leader_lost = _at(_leader, _lost, is_excused=True)
inner_follower_killed = _at(CrowdCluster.inner_follower, killed)
coordinator_killed = _at(_coordinator, killed)
upstream_black_hole = _at(
    _leader,
    lambda node: filtered(node, f"ip saddr {HOST} drop", f"ip daddr {HOST} drop"),
    is_excused=True,
)
upstream_reset = _at(_leader, _upstream_reset, is_excused=True)
leader_slow = _at(_leader, lambda node: limited(node, "8mbit"))
"""Limit the bytes that reach the leader to 1 MB/s."""


@asynccontextmanager
async def nothing(cluster: CrowdCluster) -> AsyncIterator[Collection[Node]]:
    """Break nothing."""
    yield ()


@asynccontextmanager
async def coordinator_then_leader_killed(cluster: CrowdCluster) -> AsyncIterator[Collection[Node]]:
    """Kill the coordinator's mirror, and a second later the leader's."""
    leader, coordinator = await cluster.leader(), await cluster.coordinator()
    await kill(coordinator)
    await asyncio.sleep(1)
    if leader is not coordinator:
        await kill(leader)
    yield ()


@asynccontextmanager
async def registry_restarted(cluster: CrowdCluster) -> AsyncIterator[Collection[Node]]:
    """Stop the registry for a second, which would fail every pull without a mirror."""
    await cluster.lab.registry.stop()
    await asyncio.sleep(1)
    await cluster.lab.registry.start()
    yield cluster.nodes


@asynccontextmanager
async def halves(cluster: CrowdCluster) -> AsyncIterator[Collection[Node]]:
    """Separate the machines into halves, which both reach the registry."""
    half = len(cluster.nodes) // 2
    async with halved(cluster.nodes[:half], cluster.nodes[half:]):
        yield ()


@asynccontextmanager
async def halves_joined(cluster: CrowdCluster) -> AsyncIterator[Collection[Node]]:
    """Begin with halves that have a leader each, and join them while both leaders fetch."""
    half = len(cluster.nodes) // 2
    groups = cluster.nodes[:half], cluster.nodes[half:]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(halved(*groups))
        await asyncio.gather(*(joined(*nodes, deadline=30) for nodes in groups))
        joining = asyncio.create_task(_close_after(stack, JOINED_AFTER))
        try:
            yield ()
        finally:
            await joining


async def _close_after(stack: AsyncExitStack, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await stack.aclose()
