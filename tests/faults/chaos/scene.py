"""One round: some pullers pull at once while a fault strikes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from tests.faults.chaos.field import Field, Traffic
from tests.faults.chaos.pulls import DEADLINE, Pull, pull
from tests.lab import Node
from tests.processes import until


class NotPossible(Exception):
    """This machine cannot break that."""


class Scene:
    """What a fault may look at and touch."""

    def __init__(self, *, field: Field, pullers: Sequence[Node], start: Traffic) -> None:
        self.field = field
        self.pullers = pullers
        self._start = start

    async def server(self, among: Sequence[Node] | None = None) -> Node:
        """Return the seed that has sent the most since the round began."""
        sent = (await self.field.traffic()).sent

        def count(node: Node) -> int:
            return sent[node.namespace.port] - self._start.sent[node.namespace.port]

        return max(among or self.field.seeds, key=count)

    async def moved(self, count: int, pulls: Sequence[asyncio.Task[Pull]]) -> None:
        """Wait until so many bytes have come to the pullers, while all of them pull."""

        async def have() -> bool:
            if over := [task.result() for task in pulls if task.done()]:
                raise AssertionError(f"over before the fault: {over}")
            received = (await self.field.traffic()).received
            ports = [node.namespace.port for node in self.pullers]
            return sum(received[port] - self._start.received[port] for port in ports) >= count

        await until(have, deadline=DEADLINE, pause=0.05)


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]
"""Breaks something when entered, and mends it at the end, save processes that ended: those are started again."""


async def play(
    field: Field,
    pullers: Sequence[Node],
    *,
    before: Sequence[Fault] = (),
    during: Sequence[Fault] = (),
    share: float = 0.0,
    tries: int = 1,
    reasons: Collection[str] = (),
) -> list[Pull]:
    """Pull on fresh nodes, with `before` broken already and `during` breaking when a `share` of the bytes has come.

    A pull that fails is tried again, up to so many `tries`. `reasons` are those that a miss may have.

    Raises AssertionError where one was over before `during`.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(field.slow_links(pullers))
        scene = Scene(field=field, pullers=pullers, start=await field.traffic())
        for fault in before:
            await stack.enter_async_context(fault(scene))
        pulls = [asyncio.create_task(pull(field, node, tries, reasons=reasons)) for node in pullers]
        stack.callback(lambda: [task.cancel() for task in pulls])
        if during:
            await scene.moved(int(share * field.size * len(pullers)), pulls)
        for fault in during:
            await stack.enter_async_context(fault(scene))
        return await asyncio.gather(*pulls)
