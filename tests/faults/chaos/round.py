"""One round of chaos: some pullers pull at once while a fault strikes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from tests.faults.chaos.cluster import ChaosCluster, Traffic
from tests.faults.chaos.pulls import ChaosPull, pull
from tests.faults.primitives import on_all
from tests.faults.pulls import DEADLINE
from tests.integration.cluster import limited
from tests.support.lab import Node
from tests.support.processes import until


class FaultUnsupported(Exception):
    """This machine cannot produce the fault."""


class Round:
    """The nodes that a fault may inspect and break; byte counts begin with the round."""

    def __init__(self, *, cluster: ChaosCluster, pullers: Sequence[Node], start: Traffic) -> None:
        self.cluster = cluster
        self.pullers = pullers
        self._start = start

    async def server(self, among: Sequence[Node] | None = None) -> Node:
        """Return the seed that has sent the most bytes in this round."""
        sent = (await self.cluster.traffic()).sent

        def count(node: Node) -> int:
            return sent[node.namespace.port] - self._start.sent[node.namespace.port]

        return max(among or self.cluster.seeds, key=count)

    async def received(self, count: int, pulls: Sequence[asyncio.Task[ChaosPull]]) -> None:
        """Wait until the pullers have received this many bytes.

        Raises AssertionError if a pull ends before that.
        """

        async def have() -> bool:
            if over := [task.result() for task in pulls if task.done()]:
                raise AssertionError(f"over before the fault: {over}")
            received = (await self.cluster.traffic()).received
            ports = [node.namespace.port for node in self.pullers]
            return sum(received[port] - self._start.received[port] for port in ports) >= count

        await until(have, deadline=DEADLINE, pause=0.05)


Fault = Callable[[Round], AbstractAsyncContextManager[None]]
"""Breaks something on entry and mends it on exit; the next round restarts ended processes."""


async def play_round(
    cluster: ChaosCluster,
    pullers: Sequence[Node],
    *,
    before: Sequence[Fault] = (),
    during: Sequence[Fault] = (),
    share: float = 0.0,
    tries: int = 1,
    reasons: Collection[str] = (),
) -> list[ChaosPull]:
    """Pull on fresh nodes while faults strike.

    Args:
        cluster: The machines.
        pullers: The nodes that pull, all at once.
        before: Faults that are there when the pulls begin.
        during: Faults that strike when a `share` of all bytes has arrived.
        share: A fraction between 0 and 1.
        tries: How often a pull that fails may be attempted.
        reasons: The reasons that a miss may have under these faults.

    Raises:
        AssertionError: A pull ended before the faults of `during`.
        FaultUnsupported: This machine cannot produce a fault.
    """
    async with AsyncExitStack() as stack:
        rate = cluster.workload.rate
        await stack.enter_async_context(on_all(pullers, lambda node: limited(node, rate)))
        this_round = Round(cluster=cluster, pullers=pullers, start=await cluster.traffic())
        for fault in before:
            await stack.enter_async_context(fault(this_round))
        pulls = [
            asyncio.create_task(pull(cluster, node, tries, reasons=reasons)) for node in pullers
        ]
        stack.callback(lambda: [task.cancel() for task in pulls])
        if during:
            await this_round.received(int(share * cluster.size * len(pullers)), pulls)
        for fault in during:
            await stack.enter_async_context(fault(this_round))
        return await asyncio.gather(*pulls)
