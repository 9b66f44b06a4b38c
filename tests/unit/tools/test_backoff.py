"""Pauses that double."""

from __future__ import annotations

from spegel_py.tools.backoff import Backoff, doubled


def test_pauses_double_up_to_a_limit_until_a_success() -> None:
    """After a success the first pause comes again."""
    backoff = Backoff(first=0.5, most=3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


def test_a_pause_stays_at_its_limit_after_any_number_of_failures() -> None:
    """No number of failures overflows."""
    assert doubled(1.0, 10**6, most=8.0) == 8.0
