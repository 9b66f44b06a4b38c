"""Pulls and the health of the peers they ask, over real sockets."""

from __future__ import annotations

import pytest

from spegel_py.errors import BlobUnknown
from spegel_py.health.peer_health import HealthState
from spegel_py.routing.base import Peer
from tests.unit.health.book import Book
from tests.unit.mirror.lab import LARGE, SMALL, blob, start_lab
from tests.unit.mirror.peers import FakePeer

ELSE = b"else" * 1000


class PullLog(Book):
    """Keeps the results that requests report."""

    def __init__(self) -> None:
        super().__init__()
        self.paces: list[float | None] = []
        self.first_bytes: list[float | None] = []

    def answered(
        self, peer: Peer, now: float, *, first_byte: float | None = None, pace: float | None = None
    ) -> None:
        self.first_bytes.append(first_byte)
        self.paces.append(pace)
        super().answered(peer, now, first_byte=first_byte, pace=pace)


async def test_a_pull_tells_how_soon_and_how_fast_a_peer_answered() -> None:
    """Every body reports the seconds to its first byte.

    A large body also reports the seconds of waiting for each MiB.
    """
    book = PullLog()
    for data in (LARGE, SMALL):
        async with start_lab(health=book) as lab:
            await lab.serve(FakePeer(data, rate=4 * len(data)))
            await lab.pull(blob(data))
    assert all(seconds is not None and seconds < 1 for seconds in book.first_bytes)
    large, small = book.paces
    assert small is None
    assert large == pytest.approx(0.25 * 2**20 / len(LARGE), rel=0.7)


@pytest.mark.parametrize(
    "bad",
    [FakePeer(raw=b""), FakePeer(silent=True), FakePeer(SMALL, cut_at=10)],
    ids=["hangs up", "silent", "breaks"],
)
async def test_what_failed_in_one_pull_is_not_asked_in_the_next(bad: FakePeer) -> None:
    """A peer that hung up, broke off, or was overtaken while silent is asked once.

    Other pulls find it, but do not ask it.
    """
    book = Book()
    async with start_lab(health=book) as lab:
        await lab.serve(bad, FakePeer(SMALL))
        for _ in range(5):
            _, body, complete = await lab.pull(blob(SMALL))
            assert complete
            assert body == SMALL
        assert len(bad.requests) == 1


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_an_answer_is_no_network_error(status: int) -> None:
    """No answer of a peer, whatever its status, casts doubt on its node."""
    book = Book()
    async with start_lab(health=book) as lab:
        await lab.serve(FakePeer(status=status))
        for data in (SMALL, ELSE, LARGE, b"x"):
            with pytest.raises(BlobUnknown):
                await lab.pull(blob(data))
    assert book.events == []
    assert book.state("peer0") is HealthState.HEALTHY


async def test_with_nobody_healthy_a_pull_still_asks() -> None:
    """Fail open: the only holder is asked although all its checks failed.

    A success ends the doubt.
    """
    book = Book()
    async with start_lab(health=book) as lab:
        await lab.serve(FakePeer(SMALL))
        for now in range(3):
            book.checked(lab.peers[0], "refused", 0.1, float(now))
        assert book.state("peer0") is HealthState.UNHEALTHY
        _, body, _ = await lab.pull(blob(SMALL))
    assert body == SMALL
