"""The schedule of hedged requests, and the latencies that it uses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.mirror.hedge_schedule import (
    DEFAULT_DELAY,
    MAX_SAMPLES,
    MIN_GAP,
    MIN_SAMPLES,
    HedgeSchedule,
    LatencyWindow,
)


def seen(*seconds: float) -> LatencyWindow:
    latencies = LatencyWindow()
    for each in seconds:
        latencies.observe(each)
    return latencies


def test_until_enough_is_known_a_peer_is_asked_each_50_ms() -> None:
    """A few answers tell nothing about the slowest tenth."""
    assert seen(*[1.0] * (MIN_SAMPLES - 1)).delays() == pytest.approx(
        [DEFAULT_DELAY, 2 * DEFAULT_DELAY, 3 * DEFAULT_DELAY]
    )


def test_the_delays_are_percentiles() -> None:
    """Of times from 1 to 100 ms the delays are 80, 85 and 90 ms, in whatever order they came."""
    assert seen(*[number / 1000 for number in reversed(range(1, 101))]).delays() == pytest.approx(
        [0.08, 0.085, 0.09]
    )


def test_equal_times_do_not_ask_everybody_at_once() -> None:
    """Delays differ by some milliseconds, however quick all peers are."""
    assert seen(*[0.0001] * 100).delays() == pytest.approx([MIN_GAP, 2 * MIN_GAP, 3 * MIN_GAP])


def test_old_times_are_forgotten() -> None:
    """A cluster that has become quick is soon hedged quickly again."""
    assert seen(*[1.0] * MAX_SAMPLES, *[0.02] * MAX_SAMPLES).delays()[0] == pytest.approx(0.02)


def test_silence_counts_where_it_is_longer_than_most_answers_take() -> None:
    """A peer overtaken before most answers come tells nothing; a peer overtaken later was slow."""
    latencies = seen(*[0.02] * MIN_SAMPLES)
    for _ in range(MIN_SAMPLES):
        latencies.observe_unanswered(0.01)
    assert latencies.delays()[0] == pytest.approx(0.02)
    for _ in range(MIN_SAMPLES):
        latencies.observe_unanswered(0.3)
    assert latencies.delays()[0] == pytest.approx(0.3)


def test_hedges_that_win_do_not_make_more_of_them() -> None:
    """If every fifth request is slow and its hedge wins, it stays at every fifth request."""
    latencies, hedged = LatencyWindow(), 0
    for number in range(2000):
        delay = latencies.delays()[0]
        if (takes := 0.5 if number % 5 == 0 else 0.010 + number % 7 / 1000) > delay:
            hedged += 1
            latencies.observe_unanswered(delay + 0.010)
            latencies.observe(0.010)
        else:
            latencies.observe(takes)
    assert hedged / 2000 < 0.3


def test_a_slow_first_peer_is_hedged_at_each_delay() -> None:
    """The first peer is asked at once, three more at their delays after it, and then none."""
    schedule = HedgeSchedule(delays=[1, 2, 3])
    assert schedule.due() == -math.inf
    assert not schedule.record_request(10.0)
    for at in (11.0, 12.0, 13.0):
        assert schedule.due() == at
        assert schedule.record_request(at)
    assert schedule.due() == math.inf


def test_a_failure_starts_the_next_at_once() -> None:
    """The peer that replaces a failed one is no hedge, and does not change the times of hedges."""
    schedule = HedgeSchedule(delays=[1, 2])
    schedule.record_request(10.0)
    assert schedule.record_request(11.0)
    schedule.record_failure()
    assert schedule.due() == -math.inf
    assert not schedule.record_request(11.5)
    assert schedule.due() == 12.0


def test_when_all_have_failed_the_next_gets_its_time() -> None:
    """A peer asked after failures is not hedged sooner than the first one would have been."""
    schedule = HedgeSchedule(delays=[1, 2])
    schedule.record_request(10.0)
    schedule.record_failure()
    schedule.record_request(10.9)
    assert schedule.due() == 11.9


@given(st.lists(st.booleans(), max_size=40))
def test_never_more_than_four_are_under_way(events: list[bool]) -> None:
    """Whatever fails and when, at most one peer more than there are delays is asked at a time."""
    schedule, under_way, now = HedgeSchedule(delays=[1, 2, 3]), 0, 0.0
    for is_failure in events:
        now += 0.7
        if is_failure and under_way:
            schedule.record_failure()
            under_way -= 1
        while schedule.due() <= now:
            schedule.record_request(now)
            under_way += 1
        assert 1 <= under_way <= 4
