"""Plays a row: new machines, all pull at once, the fault strikes, and what became of every pull."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc.aio

from tests.faults.crowd.ground import Ground, in_flight, left_open
from tests.faults.crowd.rows import Row
from tests.lab import Node
from tests.processes import until

DEADLINE = 120.0
"""Seconds after which a pull counts as hung."""

EXCUSED = 10.0
"""Seconds for which pulls are still waited for that may fail, once the others are over."""

GIVEN_UP = "given up"
"""Ends the errors of a pull that did not succeed."""

MIDDLE = 0.4
"""The share of the layer that who fetches has when a fault strikes."""

_Pulling = asyncio.Task[tuple[float, list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One machine's pull: its longest try, and why tries failed."""

    node: str
    seconds: float
    succeeded: bool
    is_right: bool
    is_excused: bool
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a row."""

    row: str
    pulls: tuple[Pull, ...] = ()
    copies: float = 0.0
    """How often the registry sent the layer."""
    most: float = 0.0
    left_open: int = 0
    """Files and watches that mirrors still have open, and digests of which they still believe that they are pulled."""
    error: str = ""

    @property
    def missed(self) -> list[str]:
        """Return what is not as it has to be, in words."""
        found = [self.error] if self.error else []
        for pull in self.pulls:
            if pull.seconds >= DEADLINE and not pull.is_excused:
                found.append(f"{pull.node} hung")
            elif not pull.succeeded and not pull.is_excused:
                found.append(f"{pull.node} failed: {pull.errors[-1]}")
            elif pull.succeeded and not pull.is_right:
                found.append(f"{pull.node} holds wrong bytes")
        if self.copies > self.most:
            found.append(f"the registry sent {self.copies:.2f} copies")
        if self.left_open:
            found.append(f"{self.left_open} files, watches or flights were left open")
        return found


async def play(ground: Ground, row: Row) -> Outcome:
    """Play a row; what cannot be played to its end has an `error`."""
    await ground.renew()
    pulls: list[_Pulling] = []
    try:
        async with AsyncExitStack() as stack:
            if row.strikes_first:
                excused = await stack.enter_async_context(row.fault(ground))
            pulls = [asyncio.create_task(_pull(ground, node, row.tries)) for node in ground.nodes]
            if not row.strikes_first:
                await until(lambda: _reached(ground, MIDDLE, pulls), deadline=60, pause=0.05)
                excused = await stack.enter_async_context(row.fault(ground))
            found = await _ended(pulls, [node in excused for node in ground.nodes])
    except (AssertionError, TimeoutError) as error:
        return Outcome(row=row.name, error=f"not played to its end: {error}")
    finally:
        for task in pulls:
            task.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
    return Outcome(
        row=row.name,
        pulls=tuple(
            _judged(ground, node, excused, *each)
            for node, each in zip(ground.nodes, found, strict=True)
        ),
        copies=_copies(ground),
        most=row.copies,
        left_open=await _left_open(ground),
    )


async def _ended(
    pulls: Sequence[_Pulling], is_excused: Sequence[bool]
) -> list[tuple[float, list[str]]]:
    """Return what came of the pulls; those that are excused get a little longer than the others."""
    await asyncio.gather(
        *(pull for pull, excused in zip(pulls, is_excused, strict=True) if not excused)
    )
    _, late = await asyncio.wait(pulls, timeout=EXCUSED)
    for pull in late:
        pull.cancel()
    return [
        (DEADLINE, ["cancelled", GIVEN_UP]) if pull in late else pull.result() for pull in pulls
    ]


async def _reached(ground: Ground, share: float, pulls: list[_Pulling]) -> bool:
    if any(task.done() for task in pulls):
        raise AssertionError("over before the fault")
    return await ground.fetched(await ground.leader()) >= share * len(ground.layer.data)


async def _pull(ground: Ground, node: Node, tries: int) -> tuple[float, list[str]]:
    """Pull, again where that fails; returns the seconds of the longest try and the errors. Success adds none."""
    errors: list[str] = []
    longest = 0.0
    while len(errors) < tries:
        began = time.monotonic()
        try:
            await node.cri.pull(ground.reference, deadline=DEADLINE)
            return max(longest, time.monotonic() - began), errors
        except grpc.aio.AioRpcError as failure:
            errors.append(f"{failure.code().name}: {failure.details()}"[-200:])
            longest = max(longest, time.monotonic() - began)
            if len(errors) < tries:
                await asyncio.sleep(2)  # a kubelet waits ten
    return longest, [*errors, GIVEN_UP]


def _judged(
    ground: Ground, node: Node, excused: Collection[Node], seconds: float, errors: list[str]
) -> Pull:
    succeeded = not errors or errors[-1] != GIVEN_UP
    return Pull(
        node=node.address,
        seconds=seconds,
        succeeded=succeeded,
        is_right=ground.right(node),
        is_excused=node in excused,
        errors=tuple(error for error in errors if error != GIVEN_UP),
    )


def _copies(ground: Ground) -> float:
    path = f"/blobs/{ground.layer.digest}"
    sent = sum(
        one.size
        for one in ground.lab.registry.requests("GET")
        if one.path.partition("?")[0].endswith(path)
    )
    return sent / len(ground.layer.data)


async def _left_open(ground: Ground) -> int:
    """Return what mirrors have open once they had a moment to close it."""

    async def count() -> int:
        return sum([left_open(node) + await in_flight(node) for node in ground.nodes])

    async def nothing() -> bool:
        return not await count()

    try:
        await until(nothing, deadline=10, pause=0.1)
    except TimeoutError:
        return await count()
    return 0
