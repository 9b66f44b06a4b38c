"""Trends: a worsening peer is predicted to fail in time; a noisy, busy or slow one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spegel_py.health.forecast import BAD_FOR, ENOUGH, HORIZON, CostSeries, Forecast

EVERY = 10.0
"""Seconds between samples: active checks."""


def series(floor: float = 0.02, limit: float = 3.0) -> CostSeries:
    return CostSeries(floor=floor, limit=limit)


def fed(
    cost: Callable[[float], float], until: float, *, every: float = EVERY
) -> Iterator[tuple[float, float | None]]:
    """Yield the time and the forecast after each cost."""
    one, now = series(), 0.0
    while now < until:
        one.add(cost(now), now)
        yield now, one.crossing(now)
        now += every


@pytest.mark.parametrize("doubling", [10.0, 20.0, 40.0])
def test_a_cost_that_keeps_doubling_is_foretold(doubling: float) -> None:
    """A peer whose checks double after five good minutes is predicted one doubling before its
    end."""

    def cost(now: float) -> float:
        return float(0.03 * 2 ** (max(0.0, now - 300) / doubling))

    end = next(now for now in range(300, 2000) if cost(now) >= 3.0)
    first = next(now for now, lead in fed(cost, end) if lead is not None)
    assert 300 < first <= end - min(doubling, HORIZON / 2)


def test_the_lead_is_about_right() -> None:
    """Half a minute before the limit the forecast is off by at most a quarter of a minute."""

    def cost(now: float) -> float:
        return float(0.03 * 2 ** (max(0.0, now - 300) / 20))

    end = 300 + 20 * 6.64
    lead = next(lead for now, lead in fed(cost, end) if now >= end - 33)
    assert lead is not None
    assert 15 <= lead <= 50


@settings(max_examples=40)
@given(st.integers(), st.floats(0.03, 0.5), st.floats(0, 0.7))
def test_noise_is_no_trend(seed: int, usual: float, noise: float) -> None:
    """Costs that scatter about what is usual, by up to a factor of two either way, foretell nothing
    for two hours."""
    random = Random(seed)
    assert all(
        lead is None
        for _, lead in fed(lambda now: usual * 2.718 ** random.uniform(-noise, noise), 7200)
    )


@pytest.mark.parametrize("times", [3.0, 10.0, 30.0])
def test_a_jump_is_no_trend(times: float) -> None:
    """A peer that is slower from one moment on, by however much, and stays so, is not about to
    fail."""
    assert all(lead is None for _, lead in fed(lambda now: 0.05 * (times if now > 300 else 1), 900))


def test_a_trend_that_ends_is_forgotten() -> None:
    """When a peer recovers, no failure is predicted after a minute."""

    def cost(now: float) -> float:
        return 0.03 * 2 ** (max(0.0, now - 300) / 20) if now < 400 else 0.03

    leads = dict(fed(cost, 600))
    assert any(lead is not None for lead in leads.values())
    assert all(lead is None for now, lead in leads.items() if now > 460)


def test_many_samples_are_one_step() -> None:
    """A peer that is asked a hundred times a second is judged by the same ten seconds."""
    assert all(lead is None for _, lead in fed(lambda now: 0.03 * 3 ** min(now, 1), 9, every=0.01))


def test_old_trends_end() -> None:
    """A peer that was not asked for a minute starts over."""
    one = series()
    for number in range(20):
        one.add(0.03 * 1.4**number, number * EVERY)
    now = 19 * EVERY
    assert one.crossing(now) is not None
    assert one.crossing(now + 61) is None


@pytest.mark.parametrize(
    ("samples", "cost", "is_bad"),
    [
        pytest.param(1, 100.0, False, id="nothing to compare with"),
        pytest.param(5, 1.9, False, id="below twenty times the mean"),
        pytest.param(5, 2.1, True, id="above twenty times the mean"),
        pytest.param(ENOUGH, 0.19, False, id="within three deviations of at least a third"),
        pytest.param(ENOUGH, 0.21, True, id="beyond three deviations"),
    ],
)
def test_a_bad_cost_is_dragonflys(samples: int, cost: float, is_bad: bool) -> None:
    """More than 20 times the mean is bad, or more than 3 deviations above it once there are enough
    samples."""
    one = series()
    for number in range(samples):
        one.add(0.1, float(number))
    one.add(cost, 100.0)
    assert one.is_bad(100.0) is is_bad
    assert not one.is_bad(100.0 + BAD_FOR)


def test_a_good_cost_makes_up_for_a_bad_one() -> None:
    """The newest counts."""
    one = series()
    for cost in (0.1, 0.1, 9.0):
        one.add(cost, 1.0)
    assert one.is_bad(1.0)
    one.add(0.1, 2.0)
    assert not one.is_bad(2.0)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda forecast, now, bad: forecast.checked(0.03 * bad, now), "checks"),
        (
            lambda forecast, now, bad: forecast.answered(now, first_byte=0.02 * bad, pace=None),
            "first byte",
        ),
        (
            lambda forecast, now, bad: forecast.answered(now, first_byte=None, pace=0.1 * bad),
            "bodies",
        ),
    ],
    ids=["checks", "first byte", "pace"],
)
def test_each_kind_of_cost_is_foretold(
    spoil: Callable[[Forecast, float, float], None], reason: str
) -> None:
    """The reason names the cost that gets worse."""
    forecast = Forecast(check_limit=3.0, first_byte_limit=2.0)
    reasons = set()
    for number in range(40):
        spoil(forecast, number * EVERY, 1.5 ** max(0, number - 20))
        if (failure := forecast.expected_failure(number * EVERY)) is not None:
            reasons.add(failure.reason)
    assert len(reasons) == 1
    assert reason in reasons.pop()


def test_errors_that_become_frequent_are_foretold() -> None:
    """Of twenty requests in each step one more fails each time: predicted before half of all
    fail."""
    forecast = Forecast(check_limit=3.0, first_byte_limit=2.0)
    foretold = None
    for step in range(30):
        failing = max(0, step - 12)
        for number in range(20):
            now = step * EVERY + number / 2
            if number < failing:
                forecast.failed(now)
            else:
                forecast.answered(now, first_byte=None, pace=None)
        if (
            foretold is None
            and (failure := forecast.expected_failure((step + 1) * EVERY)) is not None
        ):
            foretold = failing
            assert "fail" in failure.reason
    assert foretold is not None
    assert foretold <= 10
