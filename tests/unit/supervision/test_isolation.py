"""A node that is cut off says so once, again when it is critical, and that it is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.supervision.isolation import Episode, Isolation, IsolationLevel

WALL = 1_000_000.0


def isolation() -> Isolation:
    return Isolation(warn=60.0, critical=300.0, now=0.0)


def observe(
    state: Isolation, now: float, peers: int = 0, *, is_expecting: bool = True
) -> Episode | None:
    return state.observe(peers=peers, is_expecting=is_expecting, now=now, wall=WALL + now)


def test_the_time_counts_from_the_start() -> None:
    """Never having had a peer warns, with the time since the start; just before the threshold
    nothing is said.
    """
    state = isolation()
    assert observe(state, 59.9) is None
    assert observe(state, 60.0) == Episode(
        began=WALL, level=IsolationLevel.WARNING, seconds=60.0, from_start=True
    )


def test_it_counts_from_the_last_peer() -> None:
    """The time is that since a peer was last seen."""
    state = isolation()
    assert observe(state, 100.0, peers=2) is None
    assert observe(state, 159.0) is None
    told = observe(state, 165.0)
    assert told is not None
    assert (told.seconds, told.began, told.from_start) == (65.0, WALL + 100.0, False)


def test_an_episode_is_told_once_per_level_and_ends() -> None:
    """One warning, one critical line, one recovery with the episode's length; then a new episode
    may come.
    """
    state = isolation()
    told = [observe(state, float(second)) for second in range(400)]
    told.append(observe(state, 400.0, peers=1))
    levels = [(each.level, each.seconds, each.ended) for each in told if each is not None]
    assert levels == [
        (IsolationLevel.WARNING, 60.0, None),
        (IsolationLevel.CRITICAL, 300.0, None),
        (IsolationLevel.CRITICAL, 400.0, WALL + 400.0),
    ]
    assert observe(state, 459.0) is None
    assert observe(state, 460.0) is not None


def test_a_short_absence_is_no_episode() -> None:
    """A peer that is back before the threshold is passed over."""
    state = isolation()
    observe(state, 50.0)
    assert observe(state, 51.0, peers=1) is None


def test_a_node_alone_on_purpose_is_not_cut_off() -> None:
    """Where nobody is expected nothing is said, however long it takes, and an episode under way is
    over.
    """
    state = isolation()
    assert [
        observe(state, float(second), is_expecting=False) for second in range(0, 10_000, 50)
    ] == [None] * 200
    assert state.cut_off_since() is None
    assert observe(state, 10_000.0) is not None
    ended = observe(state, 10_001.0, is_expecting=False)
    assert ended is not None
    assert ended.ended == WALL + 10_001.0


@given(st.lists(st.tuples(st.floats(0.1, 200.0), st.integers(0, 2), st.booleans()), max_size=60))
def test_whatever_comes_episodes_are_well_formed(steps: list[tuple[float, int, bool]]) -> None:
    """Each episode is told as a warning or worse first, never twice at one level, and ends at most
    once.
    """
    state, now, told = isolation(), 0.0, None
    for pause, peers, is_expecting in steps:
        now += pause
        episode = observe(state, now, peers, is_expecting=is_expecting)
        if episode is None:
            continue
        if episode.ended is None:
            assert not peers
            assert episode.level is not told
            assert told is not IsolationLevel.CRITICAL
            told = episode.level
        else:
            assert told is not None
            told = None


@pytest.mark.parametrize("ended", [None, 12.5], ids=["open", "ended"])
def test_an_episode_survives_being_written(ended: float | None) -> None:
    """What is read is what was written."""
    episode = Episode(
        began=1.5, level=IsolationLevel.CRITICAL, seconds=11.0, ended=ended, from_start=True
    )
    assert Episode.from_record(episode.as_record()) == episode
