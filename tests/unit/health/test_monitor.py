"""The monitor in virtual time: how soon it finds out, and that nothing but a failing peer makes it
find one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import cast

import pytest
import structlog

from spegel_py.errors import PeerRefused, PeerUnreachable
from spegel_py.health.monitor import Monitor
from spegel_py.health.peer_health import HealthState
from spegel_py.routing.base import Member, Peer
from spegel_py.transfer.base import Deadlines, PeerAnswer, PeerRequest, UpstreamResponse
from spegel_py.transfer.client import HTTPUpstream
from tests.support import virtual
from tests.unit.health.book import A, B, Book, member
from tests.unit.mirror.peers import FakePeer

Answer = Callable[[Peer], str]
"""How a peer answers a try: ok, refused, silent, or a status."""


class ScriptedResponse:
    """An answer without a body."""

    waited = 0.0
    answer = PeerAnswer(media_type=None, digest=None, size=3, start=0, length=3)

    async def read(self) -> bytes:
        return b"ok\n"


class ScriptedUpstream:
    """Peers that answer as they are told; it counts what they were asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[float, Peer]] = []

    @asynccontextmanager
    async def open(self, peer: Peer, request: PeerRequest) -> AsyncIterator[UpstreamResponse]:
        assert request.target == "/livez"
        self.asked.append((asyncio.get_running_loop().time(), peer))
        match self.answer(peer):
            case "refused":
                raise PeerUnreachable("connection refused")
            case "silent":
                await asyncio.sleep(1000)
            case "ok":
                await asyncio.sleep(0.01)
            case status:
                raise PeerRefused(f"the peer answered {status}", status=int(status))
        yield cast("UpstreamResponse", ScriptedResponse())


class Watch:
    """A monitor over connected scripted peers, inside a running virtual loop."""

    def __init__(self, answer: Answer, peers: Iterable[Peer] = (A,), seed: int = 1) -> None:
        self.book = Book(seed)
        self.upstream = ScriptedUpstream(answer)
        self.members: list[Member] = [member(peer) for peer in peers]
        self.loop = cast("virtual.VirtualLoop", asyncio.get_running_loop())
        self.monitor = Monitor(
            health=self.book,
            upstream=self.upstream,
            members=lambda: self.members,
            metrics=self.book.metrics.health,
            timeout=3.0,
            clock=self.loop.time,
        )

    async def until(self, condition: Callable[[], bool], *, within: float) -> float:
        """Return when the condition held; fails if that takes longer."""
        end = self.loop.time() + within
        while not condition():
            assert self.loop.time() < end, f"not within {within} s: {self.book.events}"
            await asyncio.sleep(0.05)
        return self.loop.time()


@asynccontextmanager
async def watching(
    answer: Answer, peers: Iterable[Peer] = (A,), seed: int = 1
) -> AsyncIterator[Watch]:
    watch = Watch(answer, peers, seed)
    task = asyncio.create_task(watch.monitor.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("fault", ["refused", "silent", "503"])
@pytest.mark.parametrize("seed", range(5))
def test_a_dead_registry_is_found_within_thirty_seconds(fault: str, seed: int) -> None:
    """Wherever in the interval the fault falls, checks alone find it within 30 s; two passes bring
    the peer back."""

    async def main() -> None:
        how = "ok"
        async with watching(lambda peer: how, seed=seed) as watch:
            await asyncio.sleep(60 + seed * 2)
            assert watch.book.events == []
            how, broke = fault, watch.loop.time()
            await watch.until(lambda: watch.book.state("a") is HealthState.UNHEALTHY, within=30)
            assert watch.loop.time() - broke <= 11 + 3 + 2 * (2 + 1)
            assert watch.book.weigh(A, watch.loop.time()) == 0
            how = "ok"
            await watch.until(lambda: watch.book.state("a") is HealthState.HEALTHY, within=15)
        assert watch.book.names == ["peer unhealthy", "peer healthy"]
        assert watch.book.count("spegel_health_predictions_total", outcome="missed") == 1

    virtual.run(main())


def test_after_a_failed_request_a_black_hole_is_found_within_ten_seconds() -> None:
    """The first request that fails ends the trust at once; three quick checks make it certain.

    They leave three seconds or more for the request's own deadline and a pass of supervision.
    """

    async def main() -> None:
        how = "ok"
        async with watching(lambda peer: how) as watch:
            await asyncio.sleep(61)
            how, broke = "silent", watch.loop.time()
            watch.book.failed(A, "unreachable", broke)
            assert watch.book.weigh(A, broke) == 0
            found = await watch.until(
                lambda: watch.book.state("a") is HealthState.UNHEALTHY, within=10
            )
            assert found - broke < 6.5

    virtual.run(main())


@pytest.mark.parametrize("status", ["401", "404"])
def test_any_answer_of_a_living_registry_passes(status: str) -> None:
    """A registry that wants credentials, or has no such page (an old Spegel), lives."""

    async def main() -> None:
        async with watching(lambda peer: status) as watch:
            await asyncio.sleep(120)
            assert watch.book.events == []
            assert watch.book.count("spegel_health_checks_total", outcome="passed") >= 10

    virtual.run(main())


def test_random_drops_make_nobody_unhealthy() -> None:
    """Of peers that lose one try in twenty, 1,000 checks find nothing wrong, with each of ten
    seeds.

    The second try within each check sees to it: a check fails once in 400, three in a row once in
    64 million."""
    everybody = [Peer(f"p{number}", "10.0.0.1", number + 1) for number in range(20)]

    async def main(seed: int) -> Counter[str]:
        random = Random(seed)
        async with watching(
            lambda peer: "silent" if random.random() < 0.05 else "ok", everybody, seed
        ) as watch:
            for _ in range(11):
                for peer in everybody:
                    watch.book.weigh(peer, watch.loop.time())
                await asyncio.sleep(50)
            assert "peer unhealthy" not in watch.book.names
            count = watch.book.count
            return Counter(
                {
                    how: int(count("spegel_health_checks_total", outcome=how))
                    for how in ("passed", "failed")
                }
            )

    runs = [virtual.run(main(seed)) for seed in range(10)]
    assert all(run.total() >= 1000 for run in runs)
    assert 5 <= sum(run["failed"] for run in runs) <= 60  # it has been tried: 25 are expected


def test_without_the_second_try_drops_would_have_made_peers_unhealthy() -> None:
    """With checks of one try, three failures in a row do come in so many checks: the second try is
    what prevents it."""
    random, run, flips = Random(1), 0, 0
    for _ in range(100_000):
        run = run + 1 if random.random() < 0.05 else 0
        flips += run == 3
    assert flips > 5


def test_our_own_pause_makes_nobody_unhealthy() -> None:
    """A node that stood still for a minute, again and again, blames no peer, neither for checks nor
    for silence."""

    async def main() -> None:
        async with watching(lambda peer: "ok", peers=(A, B)) as watch:
            for _ in range(20):
                for _ in range(24):
                    watch.members = [member(peer, heard=watch.loop.time() % 4) for peer in (A, B)]
                    await asyncio.sleep(0.5)
                watch.loop.stand_still(60)
            assert watch.book.events == []

    virtual.run(main())


def test_a_check_that_our_pause_fell_into_is_void() -> None:
    """A timeout while this node stood still does not count against the peer; it is checked
    again."""

    async def main() -> None:
        how = "silent"
        async with watching(lambda peer: how) as watch:
            await watch.until(lambda: bool(watch.upstream.asked), within=11)
            await asyncio.sleep(0.1)
            watch.loop.stand_still(20)
            how = "ok"
            await watch.until(
                lambda: watch.book.count("spegel_health_checks_total", outcome="passed") > 0,
                within=4,
            )
            assert watch.book.count("spegel_health_checks_total", outcome="void") == 1
            assert watch.book.count("spegel_health_checks_total", outcome="failed") == 0

    virtual.run(main())


def test_a_lost_peer_is_checked_within_two_seconds() -> None:
    """When a connection is lost, the registry's answer is known within two seconds."""

    async def main() -> None:
        how = "ok"
        async with watching(lambda peer: how if peer == A else "ok", peers=(A, B)) as watch:
            await asyncio.sleep(30)
            how = "refused"
            watch.members = [member(B)]
            await watch.until(lambda: "peer lost" in watch.book.names, within=2)

    virtual.run(main())


def test_a_large_cluster_is_within_the_budget() -> None:
    """Of 1,000 members, all of which are silent, no more than the budget is asked in an interval,
    and at a time."""

    async def main() -> None:
        everybody = [Peer(f"p{number}", "10.0.0.1", number + 1) for number in range(1000)]
        async with watching(lambda peer: "ok", everybody) as watch:
            await asyncio.sleep(300)
            asked = [at for at, _ in watch.upstream.asked]
            assert len(asked) <= 32 * 300 / 9
            assert max(Counter(int(at) for at in asked).values()) <= 16

    virtual.run(main())


def test_a_fault_while_a_peer_is_checked_fails_that_peer_alone() -> None:
    """After any error of the client, other peers are checked; the fault is logged once."""

    def answer(peer: Peer) -> str:
        if peer == A:
            raise UnicodeError("label empty or too long")
        return "ok"

    async def main() -> None:
        async with watching(answer, [A, B]) as watch:
            await asyncio.sleep(60)
            assert watch.book.count("spegel_health_checks_total", outcome="failed") >= 3
            assert len([peer for _, peer in watch.upstream.asked if peer == B]) >= 3

    with structlog.testing.capture_logs() as logs:
        virtual.run(main())
    assert [line["event"] for line in logs].count("check ended in a fault of this node") == 1


@pytest.mark.parametrize(
    ("registry", "outcome"),
    [
        pytest.param(FakePeer(b"ok\n"), "passed", id="ours"),
        pytest.param(FakePeer(b"", media_type=None), "passed", id="Spegel's, without a body"),
        pytest.param(FakePeer(b"ok", chunked=True), "passed", id="behind a proxy that chunks"),
        pytest.param(FakePeer(status=401), "passed", id="wants other credentials"),
        pytest.param(FakePeer(status=503), "failed", id="says that it is not well"),
        pytest.param(FakePeer(silent=True), "failed", id="stands still"),
        pytest.param(FakePeer(raw=b""), "failed", id="hangs up"),
    ],
)
async def test_checks_over_real_sockets(registry: FakePeer, outcome: str) -> None:
    """The peers' client gets the answers that count, and tells nobody a password for them."""
    deadlines, book = Deadlines(connect=0.4, first_byte=0.4), Book()
    async with (
        registry.serve("a") as peer,
        HTTPUpstream(deadlines=deadlines, authorization="Basic eA==") as upstream,
    ):
        monitor = Monitor(
            health=book,
            upstream=upstream,
            members=lambda: [member(peer)],
            metrics=book.metrics.health,
            timeout=0.4,
        )
        book.scheduler.check_soon(peer, 0.0)
        task = asyncio.create_task(monitor.run())
        async with asyncio.timeout(5):
            while not book.count("spegel_health_checks_total", outcome=outcome):
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
    line, fields = registry.requests[0]
    assert line == "GET /livez HTTP/1.1"
    assert "authorization" not in fields
