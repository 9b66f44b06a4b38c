"""The minimum rate of a body."""

from __future__ import annotations

import pytest

from spegel_py.transfer.rates import FLOORS, FREE_REST, RateFloor, RateWindow

STRETCH = FLOORS[0][0]
MB = 1_000_000


def test_a_body_below_the_rate_is_too_slow_at_the_end_of_the_window() -> None:
    """A slow body is recognised only when the window of waiting is over."""
    pace = RateWindow(min_rate=100, window=5)
    assert [pace.is_too_slow(10, 1.0) for _ in range(5)] == [False] * 4 + [True]


def test_a_body_at_the_rate_goes_on() -> None:
    """Bytes at the minimum rate are never too slow."""
    pace = RateWindow(min_rate=100, window=5)
    assert not any(pace.is_too_slow(100, 1.0) for _ in range(100))


def test_each_window_counts_for_itself() -> None:
    """A burst at the start does not excuse a later trickle."""
    pace = RateWindow(min_rate=100, window=5)
    assert not pace.is_too_slow(10**9, 5.0)
    assert pace.is_too_slow(1, 5.0)


def test_bytes_that_were_there_already_never_look_slow() -> None:
    """A slow client lets bytes pile up. They come without waiting, so no window ever ends."""
    pace = RateWindow(min_rate=100, window=5)
    assert not any(pace.is_too_slow(1, 0.0) for _ in range(1000))


def given_up(rate: int, size: int, *, floor: RateFloor | None = None) -> float | None:
    """Return the seconds after which a body at this rate is left, None if it comes to its end."""
    floor, seconds, left = floor or RateFloor(), 0.0, size
    while left > 0:
        seconds, left = seconds + 1.0, left - rate
        if floor.is_too_slow(rate, 1.0, left):
            return seconds
    return None


@pytest.mark.parametrize(
    ("rate", "size", "expected"),
    [
        pytest.param(40_000, 6 * MB, 10.0, id="a trickle"),
        pytest.param(40_000, 500 * MB, 10.0, id="a trickle of a large layer"),
        pytest.param(40_000, 2 * MB, None, id="a trickle that is soon over"),
        pytest.param(62_500, 500 * MB, 60.0, id="a limited peer, of a large layer"),
        pytest.param(62_500, 7 * MB, None, id="a limited peer, nearly over after a minute"),
        pytest.param(97_000, 500 * MB, 300.0, id="on a crowded link"),
        pytest.param(135_000, 10_000 * MB, None, id="a slow link"),
    ],
)
def test_the_floor_rises(rate: int, size: int, expected: float | None) -> None:
    """The slower a peer, and the more bytes are left, the sooner it is left."""
    assert given_up(rate, size) == expected


def test_a_quick_beginning_excuses_no_trickle() -> None:
    """Time in which the client was slow, not the peer, does not count as waiting either."""
    floor = RateFloor()
    assert not floor.is_too_slow(1000 * MB, 5.0, 500 * MB)
    assert not floor.is_too_slow(0, 0.0, 500 * MB)
    assert given_up(40_000, 500 * MB, floor=floor) == STRETCH + STRETCH - 5.0


def test_the_last_minute_is_waited_for() -> None:
    """The rest of that minute would come no sooner from another peer."""
    least = FLOORS[0][1] - 1
    assert not RateFloor().is_too_slow(int(least * STRETCH), STRETCH, int(least * FREE_REST) - 10)
    assert RateFloor().is_too_slow(int(least * STRETCH), STRETCH, int(least * FREE_REST) + 10)


def test_without_floors_no_rate_is_too_low() -> None:
    """Content in flight has none: its registry may be slow."""
    assert given_up(1000, MB, floor=RateFloor(floors=())) is None
