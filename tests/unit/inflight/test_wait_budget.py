"""Coordinators that make a node wait: false ones for seconds, honest ones for as long as needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spegel_py.inflight.in_flight_sharing import InFlightSharing, Parent
from spegel_py.inflight.messages import (
    CoordinatorResponse,
    FetchUpstream,
    ParentRequest,
    RetryLater,
    decode_request,
    encode,
)
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.inflight.rules import InFlightRules
from spegel_py.inflight.wait_budget import WaitBudget
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryIngests, MemoryStore
from tests.support import virtual

RULES = InFlightRules()
MEMBERS = [Peer(f"n{number}", "10.0.0.1", number + 1) for number in range(5)]
IDS = [member.id for member in MEMBERS]


def digest_of(coordinator: str, second: str) -> Digest:
    """Return a digest with this coordinator and this stand-in."""
    digests = (Digest.of(str(number).encode()) for number in range(10_000))
    return next(each for each in digests if ranked_nodes(each, IDS, 2) == [coordinator, second])


DIGEST = digest_of("n1", "n2")


class Cluster:
    """The node n0, and other nodes that answer as the test wants; times are virtual seconds."""

    def __init__(self, **says: Callable[[float], CoordinatorResponse]) -> None:
        self.network = MemoryNetwork()
        self.asked: list[tuple[str, float]] = []
        self.clock = asyncio.get_running_loop().time
        clients = {member.id: self.network.requests(member) for member in MEMBERS}
        for name, client in clients.items():
            if name != "n0":
                client.set_handler(
                    self._answerer(name, says.get(name, lambda _: FetchUpstream(1.0)))
                )
        self.ingests = MemoryIngests()
        self.sharing = InFlightSharing(
            requests=clients["n0"], ingests=self.ingests, store=MemoryStore(), clock=self.clock
        )

    def _answerer(
        self, name: str, says: Callable[[float], CoordinatorResponse]
    ) -> Callable[[str, bytes], bytes]:
        def answer(_asker: str, question: bytes) -> bytes:
            assert isinstance(decode_request(question), ParentRequest)
            self.asked.append((name, self.clock()))
            return encode(says(self.clock()))

        return answer

    async def find(self, *, offset: int = 0) -> tuple[Parent | None, float]:
        """Return a pull's parent, and the seconds until it was known."""
        self.ingests.begin(DIGEST, total=100)
        began = self.clock()
        return await self.sharing.find_parent(DIGEST, offset=offset), self.clock() - began


@pytest.mark.parametrize("seconds", [0.0, 0.4, 2.9, 19.0])
def test_a_false_coordinator_holds_a_pull_back_for_three_seconds_at_most(seconds: float) -> None:
    """Then the next coordinator is asked.

    A second false one costs as much again, a third one nothing.
    """

    async def main() -> None:
        one = Cluster(n1=lambda _: RetryLater(seconds))
        source, held_back = await one.find()
        assert (source, one.asked[-1][0]) == (None, "n2")
        assert held_back <= RULES.max_wait
        everybody = Cluster(**dict.fromkeys(IDS, lambda _: RetryLater(seconds)))
        source, held_back = await everybody.find()
        assert source is None
        assert held_back <= RULES.max_waits * RULES.max_wait

    virtual.run(main())


def test_a_coordinator_that_says_to_wait_for_no_time_is_asked_a_few_times_a_second() -> None:
    """Each answer makes the pause before the next request longer."""

    async def main() -> None:
        cluster = Cluster(n1=lambda _: RetryLater(0.0))
        await cluster.find()
        times = [at for name, at in cluster.asked if name == "n1"]
        for second in range(3):
            assert sum(second <= at < second + 1 for at in times) <= 6
        resumed = Cluster(n1=lambda _: RetryLater(0.0))
        await resumed.find(offset=10)
        assert len(resumed.asked) <= 2 * RULES.max_silence + 6

    virtual.run(main())


def test_a_pull_that_is_tried_again_is_not_held_back_again() -> None:
    """The waits are remembered for as long as a runtime may be left without a byte."""

    async def main() -> None:
        cluster = Cluster(**dict.fromkeys(IDS, lambda _: RetryLater(2.5)))
        _, first = await cluster.find()
        _, second = await cluster.find()
        assert first > RULES.max_wait
        assert second == 0.0
        await asyncio.sleep(RULES.max_silence)
        assert (await cluster.find())[1] == first

    virtual.run(main())


def test_a_pull_that_has_bytes_waits_for_as_long_as_before() -> None:
    """Its content is in flight for certain, and another node may go on with it in a moment."""

    async def main() -> None:
        cluster = Cluster(n1=lambda now: RetryLater(4.0) if now < 15 else FetchUpstream(1.0))
        assert await cluster.find(offset=10) == (None, 16.0)
        assert {name for name, _ in cluster.asked} == {"n1"}

    virtual.run(main())


@pytest.mark.parametrize("members", [3, 128, 1000, 5000])
def test_the_longest_wait_of_an_honest_stand_in_is_made(members: int) -> None:
    """Else a whole large cluster would go upstream when a coordinator dies."""
    waiting = WaitBudget(until=100.0)
    pause = waiting.next_pause(RULES.stand_in(members))
    assert waiting.spend("n1", pause, 0.0, most=RULES.max_wait_among(members))
    assert RULES.max_wait_among(128) == RULES.max_wait


def test_pulls_that_wait_at_the_same_time_wait_once() -> None:
    """Two pulls of one digest do not use up each other's time."""
    waiting = WaitBudget(until=100.0)
    assert waiting.spend("n1", 2.0, 0.0, most=3.0)
    assert waiting.spend("n1", 2.0, 0.5, most=3.0)
    assert not waiting.spend("n1", 1.0, 2.5, most=3.0)
    assert waiting.spend("n2", 1.0, 2.5, most=3.0)
