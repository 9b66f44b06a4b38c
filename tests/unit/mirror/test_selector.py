"""The choice among peers, with seeded randomness and the test's own time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.mirror.scores import AttemptResult, Scores
from spegel_py.mirror.selector import PeerSelector
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer
from tests.unit.health.book import Book

A, B, C = (Peer(name, f"10.0.0.{number}", 5000) for number, name in enumerate("abc"))


def shares(scores: Scores, rounds: int = 4000) -> dict[str, float]:
    """Return each peer's share of first picks among three peers."""
    random, picked = Random(7), Counter[str]()
    for _ in range(rounds):
        selector = PeerSelector(key="k", scores=scores, random=random)
        for peer in (A, B, C):
            selector.offer(peer)
        first = selector.pick(0.0)
        assert first is not None
        picked[first.id] += 1
        selector.record(first, AttemptResult(AttemptOutcome.ABANDONED), 0.0)
    return {name: picked[name] / rounds for name in "abc"}


def test_equal_peers_get_equal_shares() -> None:
    """Unknown peers are picked equally often."""
    assert all(abs(share - 1 / 3) < 0.03 for share in shares(Scores()).values())


def test_faster_peers_get_more() -> None:
    """A peer that is four times slower gets a quarter of the share of each other peer."""
    scores = Scores()
    for _ in range(60):
        for peer, latency in ((A, 0.01), (B, 0.01), (C, 0.04)):
            scores.begin(peer)
            scores.end(peer, AttemptResult(AttemptOutcome.OK, latency), 0.0)
    share = shares(scores)
    assert abs(share["c"] - 1 / 9) < 0.02
    assert abs(share["a"] - share["b"]) < 0.04


def test_busy_peers_get_less() -> None:
    """A peer with three requests in flight gets a quarter of the share of each other peer."""
    scores = Scores()
    for _ in range(3):
        scores.begin(C)
    assert abs(shares(scores)["c"] - 1 / 9) < 0.02


def test_failing_peers_get_little_but_not_nothing() -> None:
    """After two failures a peer gets a sixteenth of its share.

    That is enough to show that it is well again.
    """
    scores = Scores()
    for _ in range(2):
        scores.begin(C)
        scores.end(C, AttemptResult(AttemptOutcome.UNREACHABLE), 0.0)
    assert abs(shares(scores)["c"] - 1 / 33) < 0.015


NEAR, FAR = replace(A, zone="here"), [replace(B, zone="there"), replace(C, zone="elsewhere")]


def zone_shares(scores: Scores, rounds: int = 4000, *, keep: int = 0) -> float:
    """Return the share of picks in the own zone, with up to `keep` picks open at a time."""
    random, near = Random(7), 0
    under_way: list[tuple[PeerSelector, Peer]] = []
    for _ in range(rounds):
        selector = PeerSelector(key="k", scores=scores, random=random)
        for peer in (NEAR, *FAR):
            selector.offer(peer)
        first = selector.pick(0.0)
        assert first is not None
        near += first == NEAR
        under_way.append((selector, first))
        while len(under_way) > keep:
            selector, peer = under_way.pop(0)
            selector.record(peer, AttemptResult(AttemptOutcome.ABANDONED), 0.0)
    return near / rounds


def test_most_picks_stay_in_the_zone() -> None:
    """One peer in each of three zones: four picks in five."""
    assert abs(zone_shares(Scores(zone="here")) - 0.8) < 0.02
    assert abs(zone_shares(Scores()) - 1 / 3) < 0.03


def test_a_crowd_spreads_to_other_zones() -> None:
    """With 30 requests under way, the peer in the zone has more than the others, but not most."""
    assert 0.4 < zone_shares(Scores(zone="here"), keep=30) < 0.75


def test_a_zone_that_fails_is_left() -> None:
    """After three failures the peer in the zone is picked less than each other one."""
    scores = Scores(zone="here")
    for _ in range(3):
        scores.begin(NEAR)
        scores.end(NEAR, AttemptResult(AttemptOutcome.UNREACHABLE), 0.0)
    assert zone_shares(scores) < 1 / 10


@given(st.lists(st.sampled_from([A, B, C]), max_size=9), st.integers())
def test_every_peer_offered_is_picked_once(offers: list[Peer], seed: int) -> None:
    """Each peer is picked once, however often it was offered, and then none."""
    selector = PeerSelector(key="k", scores=Scores(), random=Random(seed))
    for peer in offers:
        selector.offer(peer)
    picked = [selector.pick(0.0) for _ in set(offers)]
    assert sorted(peer.id for peer in picked if peer) == sorted({peer.id for peer in offers})
    assert selector.pick(0.0) is None


def test_a_peer_offered_later_is_picked_later() -> None:
    """An exhausted selector picks peers that are offered afterwards."""
    selector = PeerSelector(key="k", scores=Scores(), random=Random(1))
    assert selector.pick(0.0) is None
    selector.offer(A)
    assert selector.pick(0.0) == A


def test_shunned_peers_are_left_out_while_it_lasts() -> None:
    """A peer that is shunned for this content is not picked until that is over."""
    scores = Scores()
    scores.shun("k", A, until=10.0)
    selector = PeerSelector(key="k", scores=scores, random=Random(1))
    selector.offer(A)
    assert selector.pick(9.0) is None
    assert selector.pick(10.0) == A


def test_the_choice_depends_on_the_given_randomness_only() -> None:
    """The same seed gives the same order."""

    def order(seed: int) -> list[Peer | None]:
        selector = PeerSelector(key="k", scores=Scores(), random=Random(seed))
        for peer in (A, B, C):
            selector.offer(peer)
        return [selector.pick(0.0) for _ in range(3)]

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in range(20)}) > 1


def test_a_peer_that_was_abandoned_may_be_picked_again() -> None:
    """An abandoned attempt counts against no peer: it only was not needed."""
    selector = PeerSelector(key="k", scores=Scores(), random=Random(1))
    selector.offer(A)
    for result, may in ((AttemptOutcome.ABANDONED, True), (AttemptOutcome.NOT_FOUND, False)):
        assert selector.pick(0.0) == A
        assert not selector.has_more(0.0)
        selector.record(A, AttemptResult(result), 0.0)
        assert selector.has_more(0.0) is may


@pytest.fixture
def book() -> Book:
    return Book()


def offering(scores: Scores, *peers: Peer, complete: bool = True) -> PeerSelector:
    selector = PeerSelector(key="k", scores=scores, random=Random(1))
    for peer in peers:
        selector.offer(peer)
    if complete:
        selector.complete()
    return selector


def test_an_unhealthy_peer_gets_nothing_while_another_has_it(book: Book) -> None:
    """It is picked neither first nor as a hedge.

    That holds while the healthy peer is asked, and after its answer.
    """
    scores = Scores(health=book)
    for now in range(3):
        book.checked(A, "refused", 0.1, float(now))
    for result in (AttemptOutcome.OK, AttemptOutcome.NOT_FOUND, AttemptOutcome.BUSY):
        selector = offering(scores, A, B)
        assert selector.pick(3.0) == B
        assert not selector.has_more(3.0)
        selector.record(B, AttemptResult(result), 3.0)
        assert selector.pick(3.0) is None


def test_with_nobody_healthy_everybody_is_offered(book: Book) -> None:
    """Fail open: if no holder is trusted, each is picked once, as if all were well."""
    for now in range(3):
        for peer in (A, B):
            book.checked(peer, "refused", 0.1, float(now))
    selector = offering(Scores(health=book), A, B)
    assert {selector.pick(3.0), selector.pick(3.0)} == {A, B}
    assert selector.pick(3.0) is None


def test_an_unhealthy_peer_waits_until_all_were_offered(book: Book) -> None:
    """An unhealthy peer that is found first waits until no healthier peer can follow."""
    for now in range(3):
        book.checked(A, "refused", 0.1, float(now))
    selector = offering(Scores(health=book), A, complete=False)
    assert selector.pick(3.0) is None
    selector.offer(B)
    assert selector.pick(3.0) == B
    lonely = offering(Scores(health=book), A, complete=False)
    assert not lonely.has_more(3.0)
    lonely.complete()
    assert lonely.pick(3.0) == A


def test_what_failed_for_one_blob_is_not_tried_for_the_next(book: Book) -> None:
    """A network error in one pull keeps all other pulls from the peer.

    An answer of any kind does not.
    """
    scores = Scores(health=book)
    for result, picked in (
        (AttemptOutcome.NOT_FOUND, {A, B}),
        (AttemptOutcome.REFUSED, {A, B}),
        (AttemptOutcome.STALLED, {B}),
    ):
        scores.begin(A)
        scores.end(A, AttemptResult(result), 0.0)
        seen = set()
        for seed in range(200):
            selector = PeerSelector(key="other", scores=scores, random=Random(seed))
            selector.offer(A)
            selector.offer(B)
            seen.add(peer := selector.pick(0.0))
            assert peer is not None
            selector.record(peer, AttemptResult(AttemptOutcome.ABANDONED), 0.0)
        assert seen == picked


def test_with_the_last_healthy_peer_failing_the_others_are_tried(book: Book) -> None:
    """When the only trusted holder breaks, the untrusted ones are tried."""
    scores = Scores(health=book)
    for now in range(3):
        book.checked(A, "refused", 0.1, float(now))
    selector = offering(scores, A, B)
    assert selector.pick(3.0) == B
    selector.record(B, AttemptResult(AttemptOutcome.UNREACHABLE), 3.0)
    assert selector.pick(3.0) == A


def test_a_suspected_peer_gets_less(book: Book) -> None:
    """A peer with one failed check gets two thirds of its share."""
    scores = Scores(health=book)
    book.checked(C, "refused", 0.1, 0.0)
    assert abs(shares(scores)["c"] - 1 / 4) < 0.02


def test_unhealthy_holders_take_no_place_among_those_looked_up(book: Book) -> None:
    """The lookup's limit grows by the number of unhealthy and quarantined peers."""
    scores = Scores(health=book)
    for now in range(3):
        book.checked(A, "refused", 0.1, float(now))
    scores.quarantine.add(B.id, 3.0)
    assert scores.excluded_count(3.0) == 2
