"""The minimum rate of a body."""

from __future__ import annotations

from spegel_py.transfer.pace import Pace


def test_a_body_below_the_rate_is_too_slow_at_the_end_of_the_window() -> None:
    """Slow bytes are told only once the window of waiting is over."""
    pace = Pace(min_rate=100, window=5)
    assert [pace.is_too_slow(10, 1.0) for _ in range(5)] == [False] * 4 + [True]


def test_a_body_at_the_rate_goes_on() -> None:
    """Bytes at the minimum rate are never too slow."""
    pace = Pace(min_rate=100, window=5)
    assert not any(pace.is_too_slow(100, 1.0) for _ in range(100))


def test_each_window_counts_for_itself() -> None:
    """A burst at the start does not excuse a trickle later."""
    pace = Pace(min_rate=100, window=5)
    assert not pace.is_too_slow(10**9, 5.0)
    assert pace.is_too_slow(1, 5.0)


def test_bytes_that_were_there_already_never_look_slow() -> None:
    """A slow client lets bytes pile up: they come without waiting, so no window ever ends."""
    pace = Pace(min_rate=100, window=5)
    assert not any(pace.is_too_slow(1, 0.0) for _ in range(1000))
