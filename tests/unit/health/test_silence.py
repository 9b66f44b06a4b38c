"""The suspicion by silence: it grows with silence, and with nothing else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.health.silence import EASY, LEAST, SUSPECT, Heartbeats, factor


def beating(count: int = 20, interval: float = 4.0, late: float = 0.0) -> Heartbeats:
    """Return a peer that spoke `count` times, the last at time 0."""
    heartbeats = Heartbeats()
    for number in range(1 - count, 1):
        heartbeats.heard(number * (interval + late), interval)
    return heartbeats


def test_silence_is_suspected_before_its_end() -> None:
    """With an interval of 4 s a silent peer is suspected after 6.2 s, before it counts as gone (8
    s); not at 5 s."""
    heartbeats = beating()
    assert heartbeats.phi(4.0) < EASY
    assert EASY < heartbeats.phi(5.0) < SUSPECT
    assert heartbeats.phi(6.2) > SUSPECT
    assert heartbeats.left(6.2) == pytest.approx(1.8)


@given(st.floats(0.5, 600), st.floats(0, 0.5), st.floats(0, 3), st.floats(0, 3))
def test_suspicion_only_grows_with_silence(
    interval: float, late: float, one: float, other: float
) -> None:
    """At any interval: the longer the silence, the greater phi, and the smaller the factor."""
    heartbeats = beating(interval=interval, late=late * interval)
    early, later = sorted((one, other))
    assert heartbeats.phi(early * interval) <= heartbeats.phi(later * interval)
    assert (
        LEAST
        <= factor(heartbeats.phi(later * interval))
        <= factor(heartbeats.phi(early * interval))
        <= 1
    )


@given(st.integers(), st.sampled_from([0.5, 4.0, 50.0]), st.floats(0, 0.25))
def test_jitter_suspects_nobody(seed: int, interval: float, jitter: float) -> None:
    """Words that come up to a quarter of the interval late, in whatever order, raise no
    suspicion."""
    random, heartbeats, now = Random(seed), Heartbeats(), 0.0
    for _ in range(50):
        heartbeats.heard(now, interval)
        now += interval * (1 + random.uniform(0, jitter))
        assert heartbeats.phi(now) < SUSPECT


@given(st.integers())
def test_extra_words_make_nobody_impatient(seed: int) -> None:
    """A peer that had a lot of news, several a second, may then be silent for its interval as
    before."""
    random, heartbeats, now = Random(seed), Heartbeats(), 0.0
    for _ in range(200):
        now += random.uniform(0.01, 0.3)
        heartbeats.heard(now, 4.0)
    assert heartbeats.phi(now + 4.5) < SUSPECT / 2


@pytest.mark.parametrize(("before", "after"), [(4.0, 50.0), (50.0, 4.0)], ids=["grows", "shrinks"])
def test_another_interval_holds_from_its_announcement(before: float, after: float) -> None:
    """When the cluster grows or shrinks, silence is measured by the newest interval, at once."""
    heartbeats = beating(interval=before)
    heartbeats.heard(0.1, after)
    assert heartbeats.phi(0.1 + 1.1 * after) < SUSPECT
    assert heartbeats.phi(0.1 + 1.8 * after) > SUSPECT


def test_our_own_pause_is_not_theirs() -> None:
    """A pause of this node is left out, of the silence and of the learnt delays."""
    heartbeats = beating()
    heartbeats.excuse(30.0)
    assert heartbeats.phi(34.5) < SUSPECT
    assert heartbeats.phi(37.0) > SUSPECT
    heartbeats.heard(34.5, 4.0)
    assert heartbeats.phi(34.5 + 6.2) > SUSPECT


def test_a_slow_link_is_learnt() -> None:
    """Where every word comes 1.5 s late that is expected; a punctual peer would be suspected
    then."""
    slow = beating(late=1.5)
    assert slow.phi(6.2) < SUSPECT < beating().phi(6.2)


def test_who_never_spoke_is_not_suspected() -> None:
    """A peer that does not announce (Spegel in Go) has no heartbeats to miss."""
    assert Heartbeats().phi(1e9) == 0
