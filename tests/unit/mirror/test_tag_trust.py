"""Whose word about a tag is believed."""

from __future__ import annotations

import pytest

from spegel_py.mirror.tag_trust import (
    GRACE,
    MAX_AHEAD,
    SETTLED_AFTER,
    Disbelief,
    Standing,
    TagAuthors,
    TagsFromPeers,
    TagWord,
    age_of,
    disbelief,
)
from tests.unit.mirror.tag_words import OLD, Observer

NOW = 1_700_000_000
START = 10_000.0
SEEN = Observer().saw(OLD, NOW - 60)
ALL, MEMBERS = TagsFromPeers.ALL, TagsFromPeers.MEMBERS
OWN, MEMBER, CONNECTED, GONE, BAD = Standing

TABLE = [
    # signed, passed on, contested, author, rule → reason, reason while the registry is away
    (True, False, False, OWN, MEMBERS, None, None),
    (True, False, False, MEMBER, ALL, None, None),
    (True, False, False, MEMBER, MEMBERS, None, None),
    (True, False, False, CONNECTED, ALL, None, None),
    (True, False, False, CONNECTED, MEMBERS, Disbelief.STRANGER, Disbelief.STRANGER),
    (True, False, False, GONE, ALL, Disbelief.GONE, None),
    (True, False, False, GONE, MEMBERS, Disbelief.GONE, None),
    (True, False, False, BAD, ALL, Disbelief.QUARANTINED, Disbelief.QUARANTINED),
    (True, False, True, MEMBER, ALL, Disbelief.CONTESTED, Disbelief.CONTESTED),
    (False, False, False, MEMBER, ALL, None, None),
    (False, False, False, CONNECTED, ALL, None, None),
    (False, False, False, GONE, ALL, Disbelief.GONE, None),
    (False, False, False, BAD, ALL, Disbelief.QUARANTINED, Disbelief.QUARANTINED),
    (False, False, False, MEMBER, MEMBERS, None, None),
    (False, False, False, CONNECTED, MEMBERS, Disbelief.STRANGER, Disbelief.STRANGER),
    (False, True, False, CONNECTED, ALL, Disbelief.PASSED_ON, None),
    (False, True, False, MEMBER, ALL, Disbelief.PASSED_ON, None),
    (False, True, False, MEMBER, MEMBERS, Disbelief.PASSED_ON, None),
    (False, True, False, CONNECTED, MEMBERS, Disbelief.STRANGER, Disbelief.STRANGER),
]


@pytest.mark.parametrize("is_away", [False, True], ids=["registry there", "registry away"])
@pytest.mark.parametrize(
    ("is_signed", "is_passed_on", "is_contested", "author", "rule", "reason", "reason_away"), TABLE
)
def test_a_tag_is_believed_by_the_author_of_its_word(
    is_signed: bool,
    is_passed_on: bool,
    is_contested: bool,
    author: Standing,
    rule: TagsFromPeers,
    reason: Disbelief | None,
    reason_away: Disbelief | None,
    is_away: bool,
) -> None:
    word = TagWord(
        observation=SEEN if is_signed else None,
        is_passed_on=is_passed_on,
        author=author,
        is_contested=is_contested,
    )
    found = disbelief(word, rule=rule, is_registry_away=is_away, now=NOW)
    assert found is (reason_away if is_away else reason)
    assert found is None or found.text


@pytest.mark.parametrize(
    ("ahead", "reason"),
    [(0, None), (600, None), (MAX_AHEAD, None), (MAX_AHEAD + 1, Disbelief.FUTURE)],
)
def test_clocks_may_be_ten_minutes_apart_but_no_tag_comes_from_far_ahead(
    ahead: float, reason: Disbelief | None
) -> None:
    word = TagWord(observation=Observer().saw(OLD, NOW + ahead), author=MEMBER)
    assert disbelief(word, rule=ALL, is_registry_away=False, now=NOW) is reason


@pytest.mark.parametrize(
    ("told", "seen", "age"),
    [
        (None, None, None),
        (5.0, None, 5.0),
        (None, 60, 60.0),
        (5.0, 60, 60.0),
        (100.0, 60, 99.5),
        (None, -600, 0.0),
        (100.0, -600, 99.5),
    ],
    ids=["unknown", "unsigned", "signed", "told younger", "told older", "ahead", "ahead, told"],
)
def test_a_peer_can_make_a_tag_older_but_not_younger(
    told: float | None, seen: float | None, age: float | None
) -> None:
    observation = None if seen is None else Observer().saw(OLD, NOW - seen)
    assert age_of(told, observation, NOW) == age


def test_a_node_counts_for_a_while_after_it_has_gone() -> None:
    connected = {"a"}
    authors = TagAuthors(own_id="own", connected=lambda: connected)
    assert authors.standing("own", START) is Standing.OWN
    assert authors.standing("a", START) is Standing.MEMBER
    assert authors.standing("never seen", START) is Standing.GONE
    connected.clear()
    authors.look(START + 60)
    assert authors.standing("a", START + GRACE - 1) is Standing.MEMBER
    assert authors.standing("a", START + GRACE) is Standing.GONE
    connected.add("a")
    authors.look(START + 2 * GRACE)
    assert authors.standing("a", START + 2 * GRACE) is Standing.MEMBER


def test_with_keys_only_their_holders_are_members() -> None:
    keyed = {"a"}
    authors = TagAuthors(own_id="own", connected=lambda: ["a", "b"], keyed=lambda: keyed)
    assert authors.standing("a", START) is Standing.MEMBER
    assert authors.standing("b", START) is Standing.CONNECTED


def test_a_node_in_quarantine_is_nothing_else() -> None:
    bad = {"a"}
    authors = TagAuthors(
        own_id="own", connected=lambda: ["a"], is_quarantined=lambda peer, now: peer in bad
    )
    assert authors.standing("a", START) is Standing.QUARANTINED
    bad.clear()
    assert authors.standing("a", START) is Standing.MEMBER


def test_right_after_the_start_nobody_is_gone() -> None:
    """This node has not connected to all others yet."""
    authors = TagAuthors(own_id="own", connected=tuple, started=START)
    assert authors.standing("a", START + SETTLED_AFTER - 1) is Standing.CONNECTED
    assert authors.standing("a", START + SETTLED_AFTER) is Standing.GONE
