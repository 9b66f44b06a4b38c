"""Bodies from several peers in parallel, over real sockets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from spegel_py.mirror.parallel_download import MIN_REST
from spegel_py.mirror.slow_peers import ParallelSettings, SlowPeerPolicy
from spegel_py.mirror.verification import MAX_BUFFERED, Verify
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import ClientGone
from tests.support.processes import until
from tests.unit.mirror.lab import Lab, MemorySink, blob, start_lab
from tests.unit.mirror.peers import FakePeer

DATA = bytes(range(251)) * 50_000  # 12.5 MB
SPREADS = "spegel_mirror_spreads_total"
AT_ONCE = ParallelSettings(peers=3, at_once=True)
WHERE_SLOW = ParallelSettings(peers=3, policy=SlowPeerPolicy(min_rate=50_000_000, window=0.2))
SLOW = 2_000_000
"""Bytes per second of a peer that takes 6 s for it alone."""


@pytest.fixture
async def spread() -> AsyncIterator[Lab]:
    async with start_lab(parallel=AT_ONCE) as lab:
        yield lab


def ranges(fake: FakePeer) -> list[tuple[int, int]]:
    """Return the ranges that a peer was asked for."""
    found = (
        re.fullmatch(r"bytes=(\d+)-(\d+)", fields["range"][0])
        for _, fields in fake.requests
        if "range" in fields
    )
    return [(int(match[1]), int(match[2])) for match in found if match]


@pytest.mark.parametrize(
    ("asked", "start", "length"),
    [
        pytest.param(None, 0, len(DATA), id="whole"),
        pytest.param(ByteRange(7, None), 7, len(DATA) - 7, id="open"),
        pytest.param(ByteRange(7, 9_000_000), 7, 8_999_994, id="closed"),
        pytest.param(ByteRange(None, 9_000_000), len(DATA) - 9_000_000, 9_000_000, id="suffix"),
    ],
)
async def test_several_peers_share_a_body(
    spread: Lab, asked: ByteRange | None, start: int, length: int
) -> None:
    """Each peer gives a part, and the client gets the parts in order.

    The log has each peer's bytes.
    """
    fakes = [
        FakePeer(DATA, delay=0.01) for _ in range(3)
    ]  # so that nobody is done before all have begun
    await spread.serve(*fakes)
    with capture_logs() as logs:
        _, body, complete = await spread.pull(blob(DATA, asked))
    assert complete
    assert body == DATA[start : start + length]
    assert all(ranges(fake) for fake in fakes)
    assert spread.count(SPREADS) == 1
    [finished] = [entry for entry in logs if entry["event"] == "relay finished"]
    assert sum(attempt["bytes"] for attempt in finished["attempts"]) == length
    assert {attempt["outcome"] for attempt in finished["attempts"]} == {"abandoned", "ok"}


@pytest.mark.parametrize("size", [MAX_BUFFERED + 1, MAX_BUFFERED + 250 * 1024])
async def test_a_small_rest_is_not_spread(spread: Lab, size: int) -> None:
    """A rest that one peer sends before other peers have begun comes from that peer."""
    other = FakePeer(DATA[:size])
    await spread.serve(FakePeer(DATA[:size]), other)
    part = ByteRange(size - MIN_REST + 1, None)
    _, body, complete = await spread.pull(blob(DATA[:size], part))
    assert complete
    assert body == DATA[size - MIN_REST + 1 : size]
    assert other.requests == []


async def test_one_peer_alone_is_not_left(spread: Lab) -> None:
    """If no other peer has the content, there is no parallel download."""
    fake = FakePeer(DATA)
    await spread.serve(fake)
    _, body, _ = await spread.pull(blob(DATA))
    assert body == DATA
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"status": 500}, id="refuses"),
        pytest.param({"status": 503}, id="busy"),
        pytest.param({"silent": True}, id="silent"),
        pytest.param({"cut_at": 100_000}, id="hangs up"),
        pytest.param({"cut_at": 100_000, "ending": "rst"}, id="resets"),
        pytest.param({"cut_at": 100_000, "ending": "stall"}, id="stalls"),
        pytest.param({"ignores_range": True}, id="200 for a range"),
        pytest.param({"extra_size": 1}, id="wrong total"),
    ],
)
async def test_a_faulty_peer_is_replaced(spread: Lab, bad: dict[str, object]) -> None:
    """A peer that fails at a piece is not asked again.

    Another peer takes over, and the bytes are right.
    """
    good = [FakePeer(DATA) for _ in range(3)]
    await spread.serve(good[0], FakePeer(DATA, **bad), *good[1:])  # type: ignore[arg-type]
    _, body, complete = await spread.pull(blob(DATA))
    assert complete
    assert body == DATA
    assert spread.attempts().get("ok", 0) >= 2


async def test_without_a_peer_left_the_body_ends_short(spread: Lab) -> None:
    """The bytes sent are right, and the caller learns that some are missing."""
    await spread.serve(*[FakePeer(DATA, cut_at=400_000) for _ in range(2)])
    _, body, complete = await spread.pull(blob(DATA))
    assert not complete
    assert DATA.startswith(body)


async def test_a_slow_peer_is_helped_out_by_others() -> None:
    """If a single peer stays below the rate, several peers share the rest with it."""
    async with start_lab(parallel=WHERE_SLOW) as lab:
        slow, others = FakePeer(DATA, rate=SLOW), [FakePeer(DATA) for _ in range(2)]
        await lab.serve(slow, *others)
        with capture_logs() as logs:
            _, body, complete = await lab.pull(blob(DATA))
        assert complete
        assert body == DATA
        assert all(ranges(other) for other in others)
        [event] = [entry for entry in logs if entry["event"] == "relay spread"]
        first = next(entry for entry in logs if entry["event"] == "relay finished")["attempts"][0]
        assert 0 < first["bytes"] == event["offset"] < len(DATA)
        assert lab.scores.of(lab.peers[0]).failures == 0


async def test_who_came_meanwhile_helps_out_too() -> None:
    """A holder that was unknown when the pull began takes part."""
    async with start_lab(parallel=WHERE_SLOW) as lab:
        await lab.serve(*[FakePeer(DATA, rate=SLOW) for _ in range(2)], late := FakePeer(DATA))
        pull, newcomer = blob(DATA), lab.peers.pop()
        pulling = asyncio.create_task(lab.pull(pull))

        async def is_spread() -> bool:
            return lab.count(SPREADS) == 1

        await until(is_spread)
        await lab.network.join(newcomer).advertise([pull.key])
        _, body, _ = await pulling
        assert body == DATA
        assert ranges(late)


async def test_a_slow_peer_without_others_goes_on() -> None:
    """A body is not broken off if no other peer can take part."""
    async with start_lab(parallel=WHERE_SLOW) as lab:
        slow = FakePeer(DATA[: MAX_BUFFERED + MIN_REST], rate=4 * SLOW)
        await lab.serve(slow)
        _, body, complete = await lab.pull(blob(slow.data))
        assert complete
        assert body == slow.data
        assert len(slow.requests) == 1


class SlowSink(MemorySink):
    """A client that takes its time for each piece."""

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0.03)
        await super().write(data)


async def test_a_slow_client_spreads_nothing() -> None:
    """Only the time spent waiting for the peer counts."""
    async with start_lab(
        parallel=ParallelSettings(peers=3, policy=SlowPeerPolicy(min_rate=50_000_000, window=1.0))
    ) as lab:
        other = FakePeer(DATA)
        await lab.serve(FakePeer(DATA), other)
        _, body, _ = await lab.pull(blob(DATA), SlowSink())
        assert body == DATA
        assert other.requests == []
        assert lab.count(SPREADS) == 0


async def test_a_client_that_leaves_ends_all_of_it(spread: Lab) -> None:
    """Every peer is hung up on, and no peer is blamed."""
    await spread.serve(*[FakePeer(DATA, rate=SLOW) for _ in range(3)])
    with pytest.raises(ClientGone):
        await spread.pull(blob(DATA), MemorySink(limit=1))
    assert not {"stalled", "unreachable", "refused"} & spread.attempts().keys()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ranges")]


async def test_wrong_bytes_among_several_peers_accuse_nobody_for_sure() -> None:
    """It is unknown which peer was wrong.

    No peer is asked for this content again, and none is put into quarantine.
    """
    async with start_lab(parallel=AT_ONCE, verify=Verify.ALL) as lab:
        await lab.serve(*[FakePeer(b"x" * len(DATA)) for _ in range(2)])
        with capture_logs() as logs:
            _, _, complete = await lab.pull(blob(DATA))
        assert not complete
        assert lab.scores.quarantine.count(lab.mirror._clock()) == 0
        events = [entry for entry in logs if entry["event"] == "peer sent wrong bytes"]
        assert {entry["peer"] for entry in events} == {"peer0", "peer1"}
