"""Plays rows of crowd: all machines pull at once, the fault strikes, and every pull is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

from tests.faults.crowd.cluster import CrowdCluster, left_open
from tests.faults.crowd.report import DEADLINE, CrowdOutcome, CrowdPull
from tests.faults.crowd.rows import Row
from tests.faults.harness import recorded
from tests.faults.pulls import Attempt, attempts, content_of
from tests.support.lab import Node
from tests.support.processes import until

EXCUSED_WAIT = 10.0
"""Seconds that excused pulls may go on after the last other pull."""

MIDDLE = 0.4
"""The share of the layer that the leader has fetched when a fault strikes."""

_Pulling = asyncio.Task[list[Attempt]]


async def play(cluster: CrowdCluster, row: Row) -> CrowdOutcome:
    """Play a row; a failure to play it is recorded in its outcome."""
    await cluster.renew()
    errors: list[str] = []
    with recorded(errors):
        return await _play(cluster, row)
    return CrowdOutcome(row=row.name, error="".join(errors))


async def _play(cluster: CrowdCluster, row: Row) -> CrowdOutcome:
    pulls: list[_Pulling] = []
    try:
        async with AsyncExitStack() as stack:
            if row.strikes_first:
                excused = await stack.enter_async_context(row.fault(cluster))
            pull = partial(attempts, tries=row.tries, before_retry=_wait, deadline=DEADLINE)
            pulls = [asyncio.create_task(pull(node, cluster.reference)) for node in cluster.nodes]
            if not row.strikes_first:
                await until(lambda: _is_in_the_middle(cluster, pulls), deadline=60, pause=0.05)
                excused = await stack.enter_async_context(row.fault(cluster))
            may_fail = [node in excused for node in cluster.nodes]
            made = await _results(cluster, pulls, may_fail)
    finally:
        for task in pulls:
            task.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
    judged = []
    for node, is_excused, each in zip(cluster.nodes, may_fail, made, strict=True):
        content = await asyncio.to_thread(content_of, cluster.image, node)
        judged.append(CrowdPull.of(each, content, node=node.address, is_excused=is_excused))
    return CrowdOutcome(
        row=row.name,
        pulls=tuple(judged),
        copies=cluster.copies(),
        most=row.copies,
        left_open=await _left_open(cluster),
    )


async def _is_in_the_middle(cluster: CrowdCluster, pulls: Sequence[_Pulling]) -> bool:
    if any(task.done() for task in pulls):
        raise AssertionError("over before the fault")
    return await cluster.fetched(await cluster.leader()) >= MIDDLE * len(cluster.layer.data)


async def _wait(node: Node, error: str) -> None:
    await asyncio.sleep(2)  # a kubelet waits ten


async def _results(
    cluster: CrowdCluster, pulls: Sequence[_Pulling], may_fail: Sequence[bool]
) -> list[list[Attempt]]:
    """Return the attempts of each pull; an excused pull is cancelled if it lasts much longer."""
    await asyncio.gather(
        *(pull for pull, excused in zip(pulls, may_fail, strict=True) if not excused)
    )
    _, late = await asyncio.wait(pulls, timeout=EXCUSED_WAIT)
    for pull in late:
        pull.cancel()
    return [
        [Attempt(node=node.address, began=time.time(), seconds=DEADLINE, error="cancelled")]
        if pull in late
        else pull.result()
        for node, pull in zip(cluster.nodes, pulls, strict=True)
    ]


async def _left_open(cluster: CrowdCluster) -> int:
    """Return the resources that mirrors still hold 10 s after the pulls."""

    async def count() -> int:
        return sum([await left_open(node) for node in cluster.nodes])

    async def are_released() -> bool:
        return not await count()

    with suppress(TimeoutError):
        await until(are_released, deadline=10, pause=0.1)
    return await count()
