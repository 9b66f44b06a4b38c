"""The active filter: Kraken's trend, value by value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.health.trend import ActiveCheck, Thresholds


def after(results: str, *, passes: int = 2, fails: int = 3) -> ActiveCheck:
    """Return a trend that has seen these checks: + passed, - failed."""
    trend = ActiveCheck(Thresholds(passes=passes, fails=fails))
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
    """A pass counts up to 2, a fail down to -3, one opposite result starts over; the health turns at the ends."""
    trend = after(results)
    assert (trend.value, trend.is_healthy) == (value, is_healthy)


@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_only_a_full_run_turns_the_health(results: str, passes: int, fails: int) -> None:
    """A peer is unhealthy exactly if a run of `fails` failures came, and no run of `passes` passes since."""
    worst, best = results.rfind("-" * fails), results.rfind("+" * passes)
    assert after(results, passes=passes, fails=fails).is_healthy == (worst == -1 or best > worst)


@given(st.text("+-", max_size=40))
def test_a_turn_is_told_once(results: str) -> None:
    """`record` says so at each turn, and at nothing else."""
    trend = ActiveCheck(Thresholds())
    for result in results:
        was = trend.is_healthy
        assert trend.record(passed=result == "+") == (trend.is_healthy != was)


def test_the_weight_fades_with_each_failure() -> None:
    """Each failure in a row takes its part of the weight, until nothing is left."""
    assert [after("-" * count).factor for count in range(4)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert after("---+").factor == 0
    assert after("---++").factor == 1
