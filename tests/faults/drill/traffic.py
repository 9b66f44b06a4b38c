"""Containerds that pull one image, forget it, and pull it again, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from tests.faults.chaos.pulls import DEADLINE
from tests.faults.drill.ground import Ground
from tests.faults.drill.report import Pull
from tests.lab import Node

PAUSE = 0.2
"""Seconds between two pulls of one node."""


@asynccontextmanager
async def pulling(ground: Ground) -> AsyncIterator[list[Pull]]:
    """Pull on all pullers; yields the pulls that have ended, and more come in until the block is left."""
    pulls: list[Pull] = []
    over = asyncio.Event()
    tasks = [
        asyncio.create_task(_keep_pulling(ground, node, pulls, over)) for node in ground.pullers
    ]
    try:
        yield pulls
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def _keep_pulling(ground: Ground, node: Node, pulls: list[Pull], over: asyncio.Event) -> None:
    while not over.is_set():
        pulls.append(await _pull(ground, node))
        await node.cri.remove(
            ground.reference
        )  # which has containerd collect its garbage before it answers
        await asyncio.sleep(PAUSE)


async def _pull(ground: Ground, node: Node) -> Pull:
    wall, began, error = time.time(), time.monotonic(), ""
    try:
        await node.cri.pull(ground.reference, deadline=DEADLINE)
    except grpc.aio.AioRpcError as failure:
        error = f"{failure.code().name}: {failure.details()}"
    return Pull(node=node.address, began=wall, seconds=time.monotonic() - began, error=error)
