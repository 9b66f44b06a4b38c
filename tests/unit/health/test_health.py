"""Health: checks, requests and heartbeats go in, factors and log events come out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.health import health as module
from spegel_py.health import silence
from spegel_py.health.peer_health import BAD, DOUBT, HealthState
from spegel_py.routing.base import Member, Peer
from tests.unit.health.book import A, B, Book, C, member


def beat(book: Book, seconds: int, *peers: Peer, start: float = 0.0) -> None:
    """Let these peers be heard from every four seconds, looked at twice a second."""
    for tick in range(seconds * 2):
        now = start + tick / 2
        book.observe([member(peer, heard=(now - start) % 4) for peer in peers], now)


def test_nothing_known_is_healthy() -> None:
    """A peer nobody knows anything about has all its weight."""
    assert Book().weigh(A, 0.0) == 1
    assert Book().state("a") is HealthState.HEALTHY


def test_one_failed_request_ends_the_trust_until_a_check_passes() -> None:
    """A peer that failed for one blob is not asked for the next, until its registry has
    answered."""
    book = Book()
    book.failed(A, "unreachable", 0.0)
    assert book.weigh(A, 0.0) == 0
    assert book.weigh(B, 0.0) == 1
    assert book.scheduler.due(0.0, 10) == [A]
    book.checked(A, None, 0.01, 0.1)
    assert book.weigh(A, 0.1) == 1
    assert book.names == ["peer suspected", "peer healthy"]
    assert "unreachable" in book.events[0].reason


def test_a_success_ends_a_doubt_and_so_does_time() -> None:
    """Without any check a real success restores trust, and half a minute."""
    book = Book()
    book.failed(A, "stalled", 0.0)
    book.answered(A, 1.0)
    assert book.weigh(A, 1.0) == 1
    book.failed(A, "stalled", 2.0)
    assert book.weigh(A, 2.0 + DOUBT) == 1


@pytest.mark.parametrize("comes_whole", [True, False])
def test_a_stalled_body_is_no_matter_for_a_check(comes_whole: bool) -> None:
    """Small answers pass where large ones do not: only a body that comes whole ends that doubt, or
    time."""
    book = Book()
    book.failed(A, "stalled", 0.0, is_body=True)
    book.checked(A, None, 0.01, 1.0)
    assert book.weigh(A, 1.0) == 0
    if comes_whole:
        book.answered(A, 2.0)
    book.checked(A, None, 0.01, 3.0)
    assert book.weigh(A, 3.0) == (1 if comes_whole else 0)
    assert book.weigh(A, DOUBT) == 1


def test_who_is_overtaken_is_in_doubt_until_it_answers() -> None:
    """A peer that was silent while another answered is not asked before it passed a check; no
    log."""
    book = Book()
    book.overtaken(A, 0.0)
    assert book.weigh(A, 0.0) == 0
    assert book.scheduler.due(0.0, 10) == [A]
    book.checked(A, None, 0.01, 0.1)
    assert book.weigh(A, 0.1) == 1
    book.overtaken(A, 0.5)
    assert book.weigh(A, 0.5) == 1  # it has just proved that it lives
    assert book.events == []


def test_who_is_overtaken_and_fails_its_check_is_suspected() -> None:
    """A black hole beside quick peers is out from the first pull on, and told when the check has
    failed."""
    book = Book()
    book.overtaken(A, 0.0)
    book.checked(A, "no answer", 2.0, 2.0)
    assert book.weigh(A, 2.0) == 0
    assert book.names == ["peer suspected"]
    assert "no answer" in book.events[0].reason


def test_a_suspicion_is_not_ended_by_being_overtaken() -> None:
    """A silent peer that is overtaken too stays suspected, and gets nothing."""
    book = Book()
    beat(book, 40, A, B)
    for now in (42.5, 43.0):
        book.observe([member(A, heard=now - 36.0), member(B)], now)
    assert book.state("a") is HealthState.SUSPECTED
    book.overtaken(A, 43.1)
    book.review(43.1)
    assert (book.state("a"), book.weigh(A, 43.1)) == (HealthState.SUSPECTED, 0)
    assert book.names == ["failure predicted", "peer suspected"]


def test_three_failed_requests_outlast_passing_checks() -> None:
    """The passive filter holds for five minutes though the checks pass; one success ends it at
    once."""
    book = Book()
    for now in (0.0, 1.0, 2.0):
        book.failed(A, "stalled", now)
        book.checked(A, None, 0.01, now + 0.5)
    assert book.weigh(A, 3.0) == 0
    assert book.state("a") is HealthState.UNHEALTHY
    book.answered(A, 4.0)
    assert (book.weigh(A, 4.0), book.state("a")) == (1, HealthState.HEALTHY)
    for now in (10.0, 11.0, 12.0):
        book.failed(A, "stalled", now)
    book.checked(A, None, 0.01, 12.5)
    book.review(311.9)
    assert book.state("a") is HealthState.UNHEALTHY
    book.review(312.0)
    assert book.state("a") is HealthState.HEALTHY


def test_failed_checks_take_the_weight_step_by_step() -> None:
    """Each failed check takes a third; two passed ones restore the weight. Each turn is told
    once."""
    book = Book()
    factors = []
    for now, failure in enumerate(["refused", "refused", "refused", "refused", None, None]):
        book.checked(A, failure, 0.1, float(now))
        factors.append(book.weigh(A, float(now)))
    assert factors == pytest.approx([2 / 3, 1 / 3, 0, 0, 0, 1])
    assert book.names == ["peer unhealthy", "peer healthy"]
    assert book.count("spegel_health_predictions_total", outcome="missed") == 1
    assert "refused" in book.events[0].reason
    assert book.count("spegel_health_transitions_total", state="unhealthy") == 1


def test_what_speaks_against_a_peer_is_looked_into_at_once() -> None:
    """A first failure, and a first pass of an unhealthy peer, are followed by the next check within
    a second."""
    book = Book()
    for now, failure in ((0.0, "refused"), (10.0, "refused")):
        book.checked(A, failure, 0.1, now)
        assert book.scheduler.due(now + module.AGAIN, 10) == [A]
        assert book.needs_quick_check(A, now)
    book.checked(A, "refused", 0.1, 20.0)
    book.checked(A, None, 0.1, 30.0)
    assert book.scheduler.due(30.0 + module.AGAIN, 10) == [A]


def test_silence_takes_the_weight_gradually_and_is_told_before_the_end() -> None:
    """A silent peer loses weight from the sixth second on, is suspected and predicted, then
    lost."""
    book = Book()
    beat(book, 40, A, B)
    spoke = 36.0
    factors = []
    for tick in range(9):
        now = 40.0 + tick / 2
        book.observe([member(A, heard=now - spoke), member(B, heard=0.0)], now)
        factors.append(book.weigh(A, now))
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert 0 < factors[-1] < 0.2
    assert book.names == ["failure predicted", "peer suspected"]
    assert book.predicted().keys() == {"a"}
    assert book.declining() == {}  # it may just restart, so its images stay
    book.observe([member(B)], 44.5)
    assert book.scheduler.due(44.5, 10)[0] == A
    book.checked(A, "no answer", 2.0, 46.5)
    assert book.names[2:] == ["peer lost", "prediction ended true"]
    lead = book.count("spegel_health_prediction_lead_seconds_sum")
    assert lead == pytest.approx(4.0, abs=0.5)
    assert book.count("spegel_health_predictions_total", outcome="true") == 1
    assert book.count("spegel_health_prediction_lead_seconds_count") == 1


def test_silence_that_ends_is_a_false_alarm() -> None:
    """A peer that speaks again is healthy at once, and the prediction is counted as false in the
    end."""
    book = Book()
    beat(book, 40, A, B)
    for tick in range(7):
        now = 40.0 + tick / 2
        book.observe([member(A, heard=now - 36.0), member(B)], now)
    assert book.state("a") is HealthState.SUSPECTED
    beat(book, 40, A, B, start=43.5)
    assert book.names == [
        "failure predicted",
        "peer suspected",
        "peer healthy",
        "prediction ended false",
    ]
    assert book.weigh(A, 83.0) == 1


def test_when_all_are_silent_it_is_this_node() -> None:
    """Where nobody at all is heard, nobody is suspected: this node's own ear is the one thing they
    share."""
    book = Book()
    beat(book, 40, A, B, C)
    for tick in range(9):
        now = 40.0 + tick / 2
        book.observe([member(peer, heard=now - 36.0) for peer in (A, B, C)], now)
    assert book.events == []
    assert book.weigh(A, 44.0) == 1


def test_our_own_pause_suspects_nobody() -> None:
    """After half a minute in which this node stood still, peers have the time of an interval to be
    heard again."""
    book = Book()
    beat(book, 40, A, B)
    book.excuse(30.0)
    book.observe([member(A, heard=34.0), member(B, heard=0.1)], 70.0)
    assert book.events == []


def test_a_goodbye_is_no_failure() -> None:
    """A peer that leaves in good order is forgotten silently, and not checked."""
    book = Book()
    book.observe([member(A), member(B)], 0.0)
    book.goodbyes.add("a")
    book.observe([member(B)], 1.0)
    assert book.events == []
    assert A not in book.scheduler.due(1.0, 10)


@pytest.mark.parametrize("is_observed", [True, False])
def test_what_was_under_way_at_a_goodbye_says_nothing(*, is_observed: bool) -> None:
    """Checks and requests that end, refused, after the goodbye neither begin a suspicion nor call
    for a check."""
    book = Book()
    book.observe([member(A), member(B)], 0.0)
    book.goodbyes.add("a")
    if is_observed:
        book.observe([member(B)], 1.0)
    book.failed(A, "unreachable", 1.0)
    book.overtaken(A, 1.0)
    for now in range(1, 10):
        book.checked(A, "refused", 0.1, float(now))
    assert book.events == []
    assert book.state("a") is HealthState.HEALTHY
    assert A not in book.scheduler.due(1.0, 10)
    book.goodbyes.clear()
    book.observe([member(A), member(B)], 11.0)
    book.checked(A, None, 0.1, 12.0)
    assert book.weigh(A, 12.0) == 1


def test_a_lost_peer_is_checked_at_once() -> None:
    """A connection that breaks starts a check; whether the registry still answers is told, and is
    no failure then."""
    book = Book()
    book.observe([member(A), member(B)], 0.0)
    book.observe([member(B)], 1.0)
    assert book.scheduler.due(1.0, 10)[0] == A
    book.checked(A, None, 0.01, 1.1)
    assert book.names == ["peer lost"]
    assert "still answers" in book.events[0].reason


def test_a_peer_that_comes_back_starts_afresh() -> None:
    """Its earlier checks and requests count no more."""
    book = Book()
    book.observe([member(A), member(B)], 0.0)
    for now in (1.0, 2.0, 3.0):
        book.failed(A, "unreachable", now)
        book.checked(A, "refused", 0.1, now)
    assert book.weigh(A, 3.0) == 0
    book.observe([member(B)], 4.0)
    book.observe([member(A), member(B)], 5.0)
    assert book.weigh(A, 5.0) == 1
    assert book.state("a") is HealthState.HEALTHY
    book.checked(A, "refused", 0.1, 6.0)
    assert book.state("a") is HealthState.HEALTHY


def test_a_peer_that_is_not_told_apart_by_its_address() -> None:
    """Health goes by the peer's id: its other addresses are as unhealthy."""
    book = Book()
    for now in range(3):
        book.checked(A, "refused", 0.1, float(now))
    assert book.weigh(Peer("a", "10.9.9.9", 1), 3.0) == 0


def test_a_cost_out_of_the_usual_takes_most_of_the_weight() -> None:
    """Dragonfly's rule: a peer whose last first byte took thirty times as long gets a quarter,
    until it is well."""
    book = Book()
    for now in range(5):
        book.answered(A, float(now), first_byte=0.03)
    book.answered(A, 5.0, first_byte=0.9)
    assert book.weigh(A, 5.0) == BAD
    book.answered(A, 6.0, first_byte=0.03)
    assert book.weigh(A, 6.0) == 1


def test_a_failure_that_is_coming_takes_the_weight_ahead_of_it() -> None:
    """A peer whose checks keep doubling is predicted and loses weight before any check fails."""
    book = Book()
    now, seconds = 0.0, 0.03
    while seconds < 3.0:
        book.checked(A, None, seconds, now)
        seconds *= 1.0 if now < 300 else 1.5
        now += 10.0
    factor = book.weigh(A, now)
    assert 0 < factor < 0.5
    assert book.names == ["failure predicted", "peer suspected"]
    for later in range(3):
        book.checked(A, "no answer", 3.0, now + later)
    assert book.names[2:] == ["peer unhealthy", "prediction ended true"]
    assert book.count("spegel_health_prediction_lead_seconds_sum") >= 10


def test_a_lost_peer_whose_registry_answers_a_request_starts_anew() -> None:
    """It needs no check any more, and is not unhealthy for what it did before."""
    book = Book()
    for _ in range(3):
        book.failed(A, "stalled", 0.0)
    assert book.state("a") is HealthState.UNHEALTHY
    book.observe([member(A)], 1.0)
    book.observe([], 2.0)
    book.answered(A, 3.0, first_byte=0.01)
    assert (book.state("a"), book.weigh(A, 3.0)) == (HealthState.HEALTHY, 1.0)
    assert not book.unhealthy
    assert book.names[-1] == "peer lost"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pass", "fail", "ok", "broke", "seen", "gone"]), st.floats(0, 5)
        ),
        max_size=60,
    )
)
def test_the_factor_is_a_share_and_states_agree_with_it(steps: list[tuple[str, float]]) -> None:
    """The factor is always in [0, 1], and 0 for an unhealthy peer; each turn is to another
    state."""
    book, now = Book(), 0.0
    for what, wait in steps:
        now += wait
        match what:
            case "pass":
                book.checked(A, None, 0.01, now)
            case "fail":
                book.checked(A, "refused", 0.01, now)
            case "ok":
                book.answered(A, now, first_byte=0.01)
            case "broke":
                book.failed(A, "stalled", now)
            case "seen":
                book.observe([member(A)], now)
            case "gone":
                book.observe([], now)
        book.review(now)
        factor = book.weigh(A, now)
        assert 0 <= factor <= 1
        if book.state("a") is HealthState.UNHEALTHY:
            assert factor == 0
    turns = [
        kind for kind in book.names if kind in ("peer suspected", "peer unhealthy", "peer healthy")
    ]
    if "gone" not in dict(steps):
        assert all(one is not other for one, other in pairwise(turns))


def test_only_the_last_peers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Churn costs no memory."""
    monkeypatch.setattr(module, "LIMIT", 2)
    book = Book()
    for peer in (A, B, C):
        book.checked(peer, "refused", 0.1, 0.0)
    assert sum(book.counts().values()) == 2
    assert book.weigh(A, 0.0) == 1


def _pinged(peer: Peer, *, left: float | None = None, refused: float | None = None) -> Member:
    """Return a member that sends no heartbeats, because the router pings it."""
    return replace(member(peer, heard=50.0), interval=None, left=left, refused=refused)


def test_a_peer_that_answers_no_pings_is_suspected_until_it_does() -> None:
    """The router says so; the time since its last pong says nothing, since pongs are rare."""
    book = Book()
    book.observe([_pinged(A), _pinged(B)], 100.0)
    assert book.weigh(A, 100.0) == 1.0
    book.observe([_pinged(A, left=3.0), _pinged(B)], 110.0)
    assert book.state("a") is HealthState.SUSPECTED
    assert book.weigh(A, 110.0) == pytest.approx(silence.LEAST)
    assert book.weigh(B, 110.0) == 1.0
    assert book.predictions.open()["a"].lead == 3.0
    book.observe([_pinged(A), _pinged(B)], 112.0)
    assert book.state("a") is HealthState.HEALTHY
    assert book.weigh(A, 112.0) == 1.0


def test_where_all_pings_fail_nobody_is_suspected() -> None:
    """This node's own network is the one thing they have in common."""
    book = Book()
    book.observe([_pinged(A, left=3.0), _pinged(B, left=2.0)], 100.0)
    assert book.state("a") is book.state("b") is HealthState.HEALTHY


def test_heartbeats_of_a_peer_that_turns_out_to_be_pinged_are_not_missed() -> None:
    """Its first announcement came before its hello had been understood."""
    book = Book()
    book.observe([member(A), member(B)], 0.0)
    for second in range(1, 60):
        book.observe([_pinged(A), member(B, heard=second % 4)], float(second))
    assert book.state("a") is HealthState.HEALTHY
    assert book.weigh(A, 60.0) == 1.0


def test_a_peer_that_others_report_is_checked_soon_and_once() -> None:
    """A report alone is no judgement."""
    book = Book()
    book.observe([_pinged(A), _pinged(B)], 0.0)
    for tick in range(100):
        book.scheduler.due(tick / 4, 32)
    for second in range(25, 29):
        book.observe([_pinged(A, refused=24.5), _pinged(B)], float(second))
    due = [peer for tick in range(20) for peer in book.scheduler.due(27 + tick / 10, 32)]
    assert due.count(A) == 1
    assert book.weigh(A, 29.0) == 1.0


def test_the_first_node_whose_checks_fail_tells_the_others() -> None:
    """It tells once; a node that was told checks for itself and tells nobody."""
    reported: list[str] = []
    book = Book(report=reported.append)
    book.observe([_pinged(A), _pinged(B)], 0.0)
    for second in range(6):
        book.checked(A, "refused", 0.1, float(second))
    assert reported == ["a"]
    book.observe([_pinged(A), _pinged(B, refused=9.0)], 10.0)
    for second in range(6):
        book.checked(B, "refused", 0.1, 11.0 + second)
    assert reported == ["a"]
