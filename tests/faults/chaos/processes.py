"""Processes that die, stop or start anew: those of the node that serves, and the puller's own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.chaos.scene import Scene
from tests.lab import Node


@asynccontextmanager
async def server_killed(scene: Scene) -> AsyncIterator[None]:
    """Kill the node that serves, as a crash does."""
    await _kill(await scene.server())
    yield


@asynccontextmanager
async def honest_server_killed(scene: Scene) -> AsyncIterator[None]:
    """Kill the node that serves, but not the one that misbehaves."""
    await _kill(await scene.server(scene.field.seeds[:-1]))
    yield


@asynccontextmanager
async def all_killed(scene: Scene) -> AsyncIterator[None]:
    """Kill every node that has the image."""
    await asyncio.gather(*map(_kill, scene.field.seeds))
    yield


@asynccontextmanager
async def server_stopped(scene: Scene) -> AsyncIterator[None]:
    """Stop the node that serves: its connections stay, and nothing comes."""
    node = await scene.server()
    assert node.spegel
    node.spegel.send(signal.SIGSTOP)
    try:
        yield
    finally:
        node.spegel.send(signal.SIGCONT)


@asynccontextmanager
async def server_s_containerd_restarted(scene: Scene) -> AsyncIterator[None]:
    """Kill the containerd of the node that serves, and start it again."""
    await _restart(await scene.server())
    yield


# The puller itself


@asynccontextmanager
async def own_killed(scene: Scene) -> AsyncIterator[None]:
    """Kill the nodes beside the containerds that pull."""
    await asyncio.gather(*map(_kill, scene.pullers))
    yield


@asynccontextmanager
async def own_ended(scene: Scene) -> AsyncIterator[None]:
    """End the nodes beside the containerds that pull, as an upgrade does."""
    for node in scene.pullers:
        assert node.spegel
        node.spegel.send(signal.SIGTERM)
    yield


@asynccontextmanager
async def own_containerd_restarted(scene: Scene) -> AsyncIterator[None]:
    """Kill the containerds that pull, and start them again."""
    await asyncio.gather(*map(_restart, scene.pullers))
    yield


async def _kill(node: Node) -> None:
    assert node.spegel
    await node.spegel.end(signal.SIGKILL)


async def _restart(node: Node) -> None:
    await node.daemon.kill()
    await node.daemon.start()
