"""Peers that are slow to answer, are busy, or both: over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import BlobUnknown
from spegel_py.mirror.hedge_schedule import MIN_SAMPLES
from spegel_py.oci.range import ByteRange
from tests.unit.mirror.lab import (
    LARGE,
    PATIENT,
    QUICK,
    SMALL,
    Lab,
    blob,
    manifest,
    manifest_peer,
    start_lab,
)
from tests.unit.mirror.peers import FakePeer

HEDGES = "spegel_mirror_hedges_total"
RESUMES = "spegel_mirror_resumes_total"


async def test_a_slow_peer_is_overtaken(lab: Lab) -> None:
    """A second peer is asked while the first is silent, and its answer is used.

    The first is hung up on, without blame.
    """
    slow = FakePeer(LARGE, silent=True)
    await lab.serve(slow, FakePeer(LARGE))
    head, body, complete = await lab.pull(blob(LARGE))
    assert complete
    assert body == LARGE
    assert head.peer.id == "peer1"
    await asyncio.wait_for(slow.hung_up.wait(), 1)
    assert lab.attempts() == {"abandoned": 1, "ok": 1}
    assert lab.count(HEDGES) == 1
    assert lab.scores.of(lab.peers[0]).failures == 0


async def test_a_silent_peer_is_asked_less_and_less(lab: Lab) -> None:
    """To be overtaken is no fault, but it lowers the weight like a long latency."""
    await lab.serve(FakePeer(SMALL, silent=True), FakePeer(SMALL))
    before = lab.scores.of(lab.peers[0]).weight(0)
    await lab.pull(blob(SMALL))
    assert lab.scores.of(lab.peers[0]).weight(0) < before / 2


async def test_a_quick_peer_is_not_hedged() -> None:
    """If the first peer answers in time, no other peer is asked: the load does not double."""
    async with start_lab() as lab:
        other = FakePeer(SMALL)
        for _ in range(MIN_SAMPLES):  # a busy machine is slow, but then it always is
            lab.mirror._latencies.observe(1.0)
        await lab.serve(FakePeer(SMALL), other)
        for _ in range(5):
            await lab.pull(blob(SMALL))
        assert other.requests == []
        assert lab.count(HEDGES) == 0


async def test_four_peers_are_asked_at_most_at_a_time(lab: Lab) -> None:
    """Eight silent peers are not all asked at once; the manifest's deadline ends it."""
    fakes = [manifest_peer(silent=True) for _ in range(8)]
    async with start_lab() as lab:
        await lab.serve(*fakes)
        pulling = asyncio.create_task(lab.pull(manifest("v1")))
        async with asyncio.timeout(5):
            while sum(len(fake.requests) for fake in fakes) < 4:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert sum(len(fake.requests) for fake in fakes) == 4
        pulling.cancel()
        await asyncio.wait([pulling])
        assert lab.attempts() == {"abandoned": 4}


async def test_a_failure_starts_the_next_at_once() -> None:
    """After a failure no percentile is waited for, and the next request is no hedge."""
    async with start_lab() as lab:
        for _ in range(MIN_SAMPLES):
            lab.mirror._latencies.observe(60.0)
        await lab.serve(FakePeer(status=500), FakePeer(status=404), FakePeer(SMALL))
        async with asyncio.timeout(5):
            _, body, _ = await lab.pull(blob(SMALL))
        assert body == SMALL
        assert lab.count(HEDGES) == 0


async def test_a_peer_that_was_overtaken_may_go_on_with_the_body() -> None:
    """The overtaken peer is asked again when the winner breaks off."""
    async with start_lab() as lab:
        slow = FakePeer(LARGE, delay=0.4)
        await lab.serve(slow, FakePeer(LARGE, cut_at=1_000_000))
        head, body, complete = await lab.pull(blob(LARGE))
    assert complete
    assert body == LARGE
    assert head.peer.id == "peer1"
    assert "range" in slow.requests[-1][1]
    assert lab.count(RESUMES) == 1


async def test_a_peer_that_was_overtaken_is_asked_after_wrong_bytes() -> None:
    """The overtaken peer is asked again when the winner's small blob turns out to be wrong."""
    async with start_lab() as lab:
        await lab.serve(FakePeer(SMALL, delay=0.4), FakePeer(b"x" * len(SMALL)))
        head, body, _ = await lab.pull(blob(SMALL))
    assert body == SMALL
    assert head.peer.id == "peer0"


async def test_going_on_is_hedged_too() -> None:
    """After a break a silent peer does not delay the body: a third one gets the same request."""
    async with start_lab() as lab:
        silent, third = FakePeer(LARGE, silent=True), FakePeer(LARGE)
        await lab.serve(FakePeer(LARGE, cut_at=1_000_000), silent, third)
        with capture_logs() as logs:
            _, body, complete = await lab.pull(blob(LARGE))
    assert complete
    assert body == LARGE
    assert silent.requests[0][1]["range"] == third.requests[0][1]["range"]
    assert lab.attempts() == {"unreachable": 1, "abandoned": 1, "ok": 1}
    [finished] = [entry for entry in logs if entry["event"] == "relay finished"]
    assert [attempt["hedge"] for attempt in finished["attempts"]] == [False, False, True]


@pytest.mark.parametrize("breaks", [1, 3])
@pytest.mark.parametrize("ending", ["fin", "rst", "stall", "trickle"])
@pytest.mark.parametrize(
    ("asked", "start", "length"),
    [
        pytest.param(None, 0, len(LARGE), id="whole"),
        pytest.param(ByteRange(10, None), 10, len(LARGE) - 10, id="open"),
        pytest.param(ByteRange(10, 4_000_009), 10, 4_000_000, id="closed"),
        pytest.param(ByteRange(None, 4_000_000), len(LARGE) - 4_000_000, 4_000_000, id="suffix"),
    ],
)
async def test_every_range_survives_every_break(
    asked: ByteRange | None, start: int, length: int, ending: str, breaks: int
) -> None:
    """For any range, and any number of breaks, the next peer goes on at the very byte."""
    broken = [FakePeer(LARGE, cut_at=900_000 + number, ending=ending) for number in range(breaks)]  # type: ignore[arg-type]
    is_silent = ending in ("stall", "trickle")
    async with start_lab(deadlines=QUICK if is_silent else PATIENT) as lab:
        await lab.serve(*broken, FakePeer(LARGE))
        head, body, complete = await lab.pull(blob(LARGE, asked))
        assert complete
        assert (head.start, head.length, head.size) == (start, length, len(LARGE))
        assert body == LARGE[start : start + length]
        assert lab.count(RESUMES) == breaks


async def test_a_busy_peer_is_passed_over_and_not_blamed(lab: Lab) -> None:
    """503 is an answer: the next peer is asked.

    The busy peer counts as loaded, and soon recovers.
    """
    await lab.serve(FakePeer(status=503), FakePeer(SMALL))
    for _ in range(2):
        _, body, _ = await lab.pull(blob(SMALL))
        assert body == SMALL
    assert lab.attempts() == {"busy": 1, "ok": 2}  # shunned for a moment
    assert lab.scores.of(lab.peers[0]).failures == 0


async def test_where_all_are_busy_the_runtime_goes_upstream(lab: Lab) -> None:
    """A client gets no refusal because peers are busy: it gets a 404."""
    await lab.serve(FakePeer(status=503), FakePeer(status=503))
    with pytest.raises(BlobUnknown) as unknown:
        await lab.pull(blob(LARGE))
    assert unknown.value.detail == {"attempts": 2}
