"""The passive filter: real requests' failures in a sliding window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.health.passive import PassiveCheck


def after(*times: float) -> PassiveCheck:
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
    assert after(*times).is_unhealthy(now) is is_unhealthy


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=12), st.integers(1, 5))
def test_it_is_the_sliding_window(times: list[float], fails: int) -> None:
    """It is unhealthy exactly if some `fails` failures in a row lie within the window, the last within it of now."""
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
    failures = after(0, 1, 2)
    failures.succeeded()
    assert not failures.is_unhealthy(2)
    failures.failed(3)
    failures.failed(4)
    assert not failures.is_unhealthy(4)
