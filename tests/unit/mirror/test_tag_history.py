"""Observations that agree, that follow a tag which moves, and that contradict each other."""

from __future__ import annotations

import pytest

from spegel_py.mirror.tag_history import MAX_OF_TAG, TagHistory
from spegel_py.oci.digest import Digest
from tests.unit.mirror.tag_words import EVIL, NAME, NEW, OLD, Observer

HOUR = 3600.0
NOW = 1_700_000_000.0
NODES = {name: Observer() for name in ("a", "b", "c", "own", "rogue")}

Words = list[tuple[str, Digest, float]]
"""The observer, the digest, and the hours at which it was seen, which is also when it came."""


def history(words: Words) -> TagHistory:
    made = TagHistory(ttl=24 * HOUR)
    for name, digest, at in words:
        observation = NODES[name].saw(digest, NOW + at * HOUR)
        made.record(observation, now=NOW + at * HOUR, is_own=name == "own")
    return made


AGREED: dict[str, Words] = {
    "one": [("a", OLD, 0)],
    "many": [("a", OLD, 0), ("b", OLD, 1), ("own", OLD, 2)],
    "moved": [("a", OLD, 0), ("b", OLD, 1), ("c", NEW, 2), ("a", NEW, 3), ("own", NEW, 4)],
    "moved, and an old one comes late": [
        ("a", OLD, 0),
        ("c", NEW, 2),
        ("b", OLD, 1),
        ("c", NEW, 3),
    ],
    "moved, with clocks 10 min apart": [("a", OLD, 0), ("c", NEW, 0.02), ("b", OLD, 0.17)],
    "moved, own look late": [("a", OLD, 0), ("own", OLD, 1), ("c", NEW, 2)],
    "moved to and fro, seen by two": [
        ("a", OLD, 0),
        ("b", NEW, 2),
        ("c", NEW, 2.5),
        ("own", OLD, 4),
    ],
    "moved to and fro, and seen so": [("a", OLD, 0), ("b", NEW, 2), ("own", OLD, 4), ("b", OLD, 5)],
    "a rogue against one": [("rogue", EVIL, 0), ("a", OLD, 1), ("rogue", EVIL, 2)],
    "a rogue, so far alone": [("a", OLD, 0), ("b", OLD, 1), ("rogue", EVIL, 2)],
}


@pytest.mark.parametrize("words", AGREED.values(), ids=AGREED)
def test_a_tag_that_moves_is_no_conflict(words: Words) -> None:
    assert history(words).conflicts(NOW + 5 * HOUR) == {}


CONFLICTS: dict[str, Words] = {
    "own look": [("a", OLD, 0), ("rogue", EVIL, 2), ("own", OLD, 2.01)],
    "own looks only": [("own", OLD, 0), ("rogue", EVIL, 2), ("own", OLD, 3)],
    "others' looks": [("a", OLD, 0), ("rogue", EVIL, 2), ("b", OLD, 3)],
    "began early": [("rogue", EVIL, -1), ("a", OLD, 0), ("rogue", EVIL, 2), ("own", OLD, 3)],
}


@pytest.mark.parametrize("words", CONFLICTS.values(), ids=CONFLICTS)
def test_one_node_that_is_contradicted_before_and_after_is_a_conflict(words: Words) -> None:
    """Its word about this tag is not believed any more; that of the others is."""
    found = history(words)
    conflict = found.conflicts(NOW + 4 * HOUR)[NAME]
    assert conflict.alone.observer == NODES["rogue"].id
    assert {conflict.before.digest, conflict.after.digest} == {OLD}
    for text in (str(EVIL), str(OLD), NODES["rogue"].id, str(int(NOW + 2 * HOUR))):
        assert text in str(conflict)
    assert found.is_contested(NAME, NODES["rogue"].id)
    assert not any(found.is_contested(NAME, NODES[name].id) for name in ("a", "b", "own"))
    assert not found.is_contested("registry.example/app:2", NODES["rogue"].id)


def test_a_conflict_ends_with_the_ttl_or_with_a_second_witness() -> None:
    found = history(CONFLICTS["own look"])
    assert found.conflicts(NOW + 27 * HOUR) == {}
    found = history([*CONFLICTS["own look"], ("c", EVIL, 3)])
    assert found.conflicts(NOW + 4 * HOUR) == {}


def test_no_crowd_of_strangers_fills_the_memory_of_a_tag() -> None:
    """This node's own look stays."""
    found = history([("own", OLD, 0)])
    for number in range(3 * MAX_OF_TAG):
        found.record(Observer().saw(EVIL, NOW + number), now=NOW)
    assert len(found.of(NAME)) == MAX_OF_TAG
    assert NODES["own"].id in {each.observer for each in found.of(NAME)}
