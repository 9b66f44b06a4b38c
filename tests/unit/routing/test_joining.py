"""Looking for peers: whether there ought to be any, and at once when somebody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.libp2p.bootstrap import Bootstrap, Joining, NoBootstrap
from spegel_py.routing.libp2p.bootstrap_targets import Target
from tests.support.processes import until

OWN, OTHER = Target("/ip4/10.0.0.1/tcp/5001"), Target("/ip4/10.0.0.2/tcp/5001")


@dataclass
class Source:
    """A bootstrap that gives what a test sets, and the libp2p side that dials it."""

    found: list[Target] = field(default_factory=list)
    interval: float = 1000.0
    asked: int = 0
    sought: int = 0
    is_up: bool = True

    async def find(self) -> Sequence[Target]:
        self.asked += 1
        return self.found

    async def reach(self, targets: Sequence[Target]) -> int:
        if not self.is_up:
            raise RouterUnavailable("down")
        return sum(target != OWN for target in targets)

    async def seek(self) -> None:
        self.sought += 1


@asynccontextmanager
async def joining(source: Source, bootstrap: Bootstrap | None = None) -> AsyncIterator[Joining]:
    """Run one until it has asked its source for the first time."""
    made = Joining(
        bootstrap=bootstrap or source,
        is_connected=lambda: True,
        dial_targets=source.reach,
        dial_lost=source.seek,
        rng=Random(1),
    )
    task = asyncio.create_task(made.run())
    try:
        await asyncio.sleep(0.05)
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("source", "is_expecting"),
    [
        (Source([OWN, OTHER]), True),
        (Source([OWN]), False),
        (Source([]), True),
        (Source([OWN], is_up=False), True),
    ],
    ids=["others are named", "only this node is named", "the source is away", "libp2p is down"],
)
async def test_whether_there_ought_to_be_peers(source: Source, *, is_expecting: bool) -> None:
    """A source that names only this node means a cluster of one; an empty answer does not."""
    async with joining(source) as made:
        assert source.asked == 1
        assert made.expects_peers is is_expecting


async def test_without_a_source_nobody_is_expected() -> None:
    """A node that others find waits for them."""
    async with joining(Source(), NoBootstrap()) as made:
        assert made.expects_peers is False


async def test_a_nudge_does_not_wait_for_the_next_look() -> None:
    """Asked to, it asks its source and looks for lost peers at once, though the next look is far
    away."""
    source = Source()

    async def is_asked_again() -> bool:
        return source.asked > before

    async with joining(source) as made:
        before = source.asked
        await made.now()
        assert source.sought == 1
        await until(is_asked_again)


async def test_a_source_that_fails_is_asked_again() -> None:
    """After any error: the answer of another node must not end this node."""

    class Failing(Source):
        async def find(self) -> Sequence[Target]:
            await super().find()
            raise RecursionError

    source = Failing()
    async with joining(source) as made:
        asked = source.asked
        await made.now()
        while source.asked == asked:
            await asyncio.sleep(0.01)
