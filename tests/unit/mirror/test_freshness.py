"""The time as of which a tag is known."""

from __future__ import annotations

import math

from spegel_py.mirror.freshness import MAX_TAGS, Freshness

NAME = "registry.example/app:1"


def test_what_was_pulled_from_the_registry_is_known_as_of_the_pull() -> None:
    """Without an answer of this node the pull went to the registry."""
    assert Freshness().last_seen(NAME, 100.0) == 100.0


def test_what_came_from_a_peer_is_no_younger_for_being_pulled_here() -> None:
    """After a peer's answer a tag is known as of the time when the peer saw it.

    That ends when the registry is asked again.
    """
    freshness = Freshness()
    freshness.record_answer(NAME, 50.0)
    assert freshness.last_seen(NAME, 100.0) == 50.0
    freshness.record_miss(NAME, 110.0)
    freshness.record_miss(NAME, 130.0)
    assert freshness.last_seen(NAME, 100.0) == 50.0, "the pull before went by the peer"
    assert freshness.last_seen(NAME, 120.0) == 120.0
    freshness.record_miss("another", 130.0)


def test_an_answer_makes_no_older_pull_younger() -> None:
    """An answer does not change the age of an earlier pull."""
    freshness = Freshness()
    freshness.record_answer(NAME, 50.0)
    assert freshness.last_seen(NAME, 20.0) == 20.0


def test_a_tag_is_one_however_its_registry_is_spelled() -> None:
    """The answer uses the key, the pull uses the image's own name."""
    freshness = Freshness()
    freshness.record_answer("registry.example/app:1", 50.0)
    assert freshness.last_seen("REGISTRY.example:443/app:1", 100.0) == 50.0
    freshness.record_miss("Registry.Example./app:1", 110.0)
    assert freshness.last_seen(NAME, 120.0) == 120.0


def test_the_time_to_live_is_kept() -> None:
    """A tag is answered until its time is over.

    With 0 it never is, and without a limit always. A clock set back does no harm.
    """
    assert Freshness(ttl=10).is_fresh(100.0, 110.0)
    assert not Freshness(ttl=10).is_fresh(100.0, 110.1)
    assert not Freshness(ttl=0).is_fresh(100.0, 100.0)
    assert Freshness(ttl=math.inf).is_fresh(0.0, 1e12)
    assert Freshness(ttl=10).is_fresh(100.0, 50.0)


def test_memory_is_bounded() -> None:
    """Only the tags answered last are remembered."""
    freshness = Freshness()
    for number in range(MAX_TAGS + 1):
        freshness.record_answer(str(number), 1.0)
    assert freshness.last_seen("0", 5.0) == 5.0
    assert freshness.last_seen("1", 5.0) == 1.0
