"""Kraken's filters: the active one value by value, the passive one as a sliding window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.health.check_filters import ActiveCheck, PassiveCheck


def after(results: str, *, passes: int = 2, fails: int = 3) -> ActiveCheck:
    """Return a trend that has seen these checks: + passed, - failed."""
    trend = ActiveCheck(passes=passes, fails=fails)
    for result in results:
        trend.record(passed=result == "+")
    return trend


@pytest.mark.parametrize(
    ("results", "value", "is_healthy"),
    [
        pytest.param("", 0, True, id="new"),
        pytest.param("+", 1, True, id="one passed"),
        pytest.param("+++++", 2, True, id="no further than passes"),
        pytest.param("+++-", -1, True, id="one failure starts over"),
        pytest.param("+++--", -2, True, id="two failures"),
        pytest.param("+++---", -3, False, id="three failures"),
        pytest.param("------", -3, False, id="no further than fails"),
        pytest.param("--+--", -2, True, id="a pass between starts over"),
        pytest.param("---+", 1, False, id="one pass is not enough"),
        pytest.param("---+-+", 1, False, id="passes must follow each other"),
        pytest.param("---++", 2, True, id="two passes"),
    ],
)
def test_the_trend_is_krakens(results: str, value: int, is_healthy: bool) -> None:
    """A pass counts up to 2, a fail down to -3, one opposite result starts over; the health turns
    at the ends."""
    trend = after(results)
    assert (trend.value, trend.is_healthy) == (value, is_healthy)


@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_only_a_full_run_turns_the_health(results: str, passes: int, fails: int) -> None:
    """A peer is unhealthy exactly if a run of `fails` failures came, and no run of `passes` passes
    since."""
    worst, best = results.rfind("-" * fails), results.rfind("+" * passes)
    assert after(results, passes=passes, fails=fails).is_healthy == (worst == -1 or best > worst)


@given(st.text("+-", max_size=40))
def test_a_turn_is_told_once(results: str) -> None:
    """`record` says so at each turn, and at nothing else."""
    trend = ActiveCheck()
    for result in results:
        was = trend.is_healthy
        assert trend.record(passed=result == "+") == (trend.is_healthy != was)


def test_the_weight_fades_with_each_failure() -> None:
    """Each failure in a row takes its part of the weight, until nothing is left."""
    assert [after("-" * count).factor for count in range(4)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert after("---+").factor == 0
    assert after("---++").factor == 1


def after_failures(*times: float) -> PassiveCheck:
    failures = PassiveCheck(fails=3, fail_timeout=300)
    for time in times:
        failures.failed(time)
    return failures


@pytest.mark.parametrize(
    ("times", "now", "is_unhealthy"),
    [
        pytest.param((0, 1), 1, False, id="two failures"),
        pytest.param((0, 1, 2), 2, True, id="three failures"),
        pytest.param((0, 1, 2), 301.9, True, id="for the whole timeout"),
        pytest.param((0, 1, 2), 302, False, id="and no longer"),
        pytest.param((0, 150, 299), 299, True, id="just within the window"),
        pytest.param((0, 150, 300), 300, False, id="the window slides"),
        pytest.param(
            (0, 1, 2, 200), 499, True, id="a further failure within it starts the time anew"
        ),
    ],
)
def test_three_failures_within_the_window_count(
    times: tuple[float, ...], now: float, is_unhealthy: bool
) -> None:
    """`fails` failures within `fail_timeout` make a peer unhealthy for that long."""
    assert after_failures(*times).is_unhealthy(now) is is_unhealthy


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=12), st.integers(1, 5))
def test_it_is_the_sliding_window(times: list[float], fails: int) -> None:
    """It is unhealthy exactly if some `fails` failures in a row lie within the window, the last
    within it of now."""
    times.sort()
    failures = PassiveCheck(fails=fails, fail_timeout=100)
    for time in times:
        failures.failed(time)
    now = times[-1] + 50
    runs = zip(times, times[fails - 1 :], strict=False)
    assert failures.is_unhealthy(now) == any(
        last - first < 100 and now < last + 100 for first, last in runs
    )


def test_a_success_clears_all_at_once() -> None:
    """After one success a peer is healthy, and its former failures count no more."""
    failures = after_failures(0, 1, 2)
    failures.succeeded()
    assert not failures.is_unhealthy(2)
    failures.failed(3)
    failures.failed(4)
    assert not failures.is_unhealthy(4)
