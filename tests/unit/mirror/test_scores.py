"""The results of requests, and the weights that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spegel_py.mirror.scores import (
    BUSY_HALF_LIFE,
    HALF_LIFE,
    OTHER_ZONE,
    PRIOR_LATENCY,
    AttemptResult,
    Score,
    Scores,
)
from spegel_py.outcomes import AttemptOutcome, PeerZone
from spegel_py.routing.base import Peer

A, B = Peer("a", "10.0.0.1", 5000), Peer("b", "10.0.0.2", 5000)
FAILED = AttemptResult(AttemptOutcome.STALLED)


@pytest.mark.parametrize(
    ("score", "weight"),
    [
        pytest.param(Score(latency=0.01), 100, id="idle"),
        pytest.param(Score(latency=0.02), 50, id="twice as slow"),
        pytest.param(Score(latency=0.01, in_flight=1), 50, id="one in flight"),
        pytest.param(Score(latency=0.01, in_flight=3), 25, id="three in flight"),
        pytest.param(Score(latency=0.01, failures=1, at=100), 25, id="one failure now"),
        pytest.param(Score(latency=0.01, failures=3, at=100), 100 / 64, id="three failures now"),
        pytest.param(
            Score(latency=0.01, failures=1, at=100 - HALF_LIFE),
            50,
            id="one failure a half-life ago",
        ),
        pytest.param(Score(latency=0.0), 1000, id="faster than the floor"),
    ],
)
def test_the_weight_is_the_formula(score: Score, weight: float) -> None:
    """The weight is 1/latency × 1/(1 + in flight) × 4^-failures, failures decayed."""
    assert score.weight(100) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("own", "theirs", "seen", "factor"),
    [
        ("a", "a", PeerZone.SAME, 1.0),
        ("a", "b", PeerZone.OTHER, OTHER_ZONE),
        ("a", "", PeerZone.UNKNOWN, 1.0),
        ("", "b", PeerZone.UNKNOWN, 1.0),
    ],
)
def test_a_peer_in_another_zone_has_less_weight(
    own: str, theirs: str, seen: PeerZone, factor: float
) -> None:
    """Only if both name their zones."""
    scores, peer = Scores(zone=own), replace(A, zone=theirs)
    assert scores.zone_of(peer) is seen
    assert scores.weight(peer, 0) == pytest.approx(Score().weight(0) * factor)


def test_latency_is_a_moving_average() -> None:
    """Each first byte moves the latency by 30 % of the difference; answers without one leave it."""
    score = Score(latency=0.010)
    score.record(AttemptResult(AttemptOutcome.OK, 0.110), 0)
    assert score.latency == pytest.approx(0.040)
    score.record(AttemptResult(AttemptOutcome.UNREACHABLE), 0)
    assert score.latency == pytest.approx(0.040)


def test_a_success_halves_what_failures_cost() -> None:
    """Failures add up, and every success halves them."""
    score = Score()
    for _ in range(2):
        score.record(FAILED, 0)
    assert score.failures_at(0) == 2
    score.record(AttemptResult(AttemptOutcome.OK, 0.01), 0)
    assert score.failures_at(0) == 1


def test_a_busy_peer_counts_as_loaded_for_a_while() -> None:
    """Each 503 stands for four requests of others, half of which are over after five seconds."""
    score = Score(latency=0.01)
    score.record(AttemptResult(AttemptOutcome.BUSY), 100)
    assert score.weight(100) == pytest.approx(20)
    assert score.weight(100 + BUSY_HALF_LIFE) == pytest.approx(100 / 3)


def test_silence_is_a_latency_of_at_least_that() -> None:
    """A peer that was left while silent is at least that slow.

    A peer that was left early may be quick.
    """
    score = Score(latency=0.010)
    score.record(AttemptResult(AttemptOutcome.ABANDONED, silence=0.110), 0)
    assert score.latency == pytest.approx(0.040)
    score.record(AttemptResult(AttemptOutcome.ABANDONED, silence=0.001), 0)
    assert score.latency == pytest.approx(0.040)


@pytest.mark.parametrize("result", [AttemptOutcome.NOT_FOUND, AttemptOutcome.ABANDONED])
def test_what_is_no_fault_costs_nothing(result: AttemptOutcome) -> None:
    """A stale record, or a client that left, does not count against the peer."""
    scores = Scores()
    scores.begin(A)
    scores.end(A, AttemptResult(result, PRIOR_LATENCY), 0)
    assert scores.of(A).weight(0) == Score().weight(0)


def test_requests_in_flight_are_counted() -> None:
    """A request counts as load from its beginning to its end."""
    scores = Scores()
    scores.begin(A)
    scores.begin(A)
    assert scores.of(A).in_flight == 2
    scores.end(A, FAILED, 0)
    assert scores.of(A).in_flight == 1


def test_only_the_peers_used_last_are_remembered() -> None:
    """Beyond the limit the peer used longest ago is forgotten.

    The later end of its request is ignored.
    """
    scores = Scores(limit=1)
    scores.begin(A)
    scores.end(A, FAILED, 0)
    scores.begin(B)
    scores.end(A, FAILED, 0)
    assert scores.of(A) == Score()
    assert scores.of(B).in_flight == 1


def test_a_shunned_peer_is_shunned_for_one_key_and_a_time() -> None:
    """Shunning is for one piece of content, and ends."""
    scores = Scores(limit=2)
    scores.shun("k", A, until=10)
    assert scores.is_shunned("k", A, 9)
    assert not scores.is_shunned("k", A, 10)
    assert not scores.is_shunned("other", A, 9)
    assert not scores.is_shunned("k", B, 9)
    for key in ("l", "m"):
        scores.shun(key, A, until=10)
    assert not scores.is_shunned("k", A, 9)


def test_a_peer_in_quarantine_is_shunned_for_every_key() -> None:
    """A peer that sent wrong bytes is asked for nothing, at whatever address."""
    scores = Scores()
    scores.quarantine.add(A.id, 0.0)
    assert scores.is_shunned("k", A, 1)
    assert scores.is_shunned("other", Peer("a", "10.0.0.9", 5000), 1)
    assert not scores.is_shunned("k", B, 1)
