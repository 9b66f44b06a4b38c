"""The verdicts, the page and the drawing of the fault drill."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from spegel_py.supervision.conditions import CONDITIONS, Tier
from tests.faults.drill import plot
from tests.faults.drill.keeping import KEEPING
from tests.faults.drill.report import (
    Death,
    DrillOutcome,
    Failure,
    Measure,
    Sighting,
    limits,
    markdown,
    most_waits,
    p99,
)
from tests.faults.drill.rows import FULL, SHORT
from tests.faults.harness import chosen
from tests.faults.pulls import Attempt
from tests.faults.report import as_json

SEEN = Sighting(
    node="10.99.1.1",
    condition="peer-lost",
    tier="P2",
    seen=1.5,
    seen_limit=300.0,
    over=5.0,
    over_limit=1800.0,
    is_on_record=True,
)
PULL = Attempt(node="10.99.1.2", began=100.0, seconds=1.0)
HEALED = Measure(seconds=3.0, limit=15.0)
GIVEN = {"spegel-py": "0.1.0", "cores": 2, "time": "2026-11-25T19:00:00+00:00"}


def outcome(*sightings: Sighting, **fields: object) -> DrillOutcome:
    seen = DrillOutcome(
        row="node killed", sightings=sightings or (SEEN,), lookup=HEALED, pulls=(PULL,)
    )
    return replace(seen, **fields)  # type: ignore[arg-type]  # a test's shorthand


@pytest.mark.parametrize(
    ("given", "missed"),
    [
        pytest.param(outcome(), [], id="all is well"),
        pytest.param(
            outcome(SEEN, replace(SEEN, seen=None, over=None, is_on_record=False)),
            ["peer-lost not seen by 1 of 2"],
            id="not seen",
        ),
        pytest.param(
            outcome(replace(SEEN, seen=12.0, seen_limit=10.0)),
            ["peer-lost seen after 12.0 s"],
            id="late",
        ),
        pytest.param(
            outcome(replace(SEEN, over=None, is_on_record=False)),
            ["peer-lost not over in time on 1"],
            id="never over",
        ),
        pytest.param(
            outcome(replace(SEEN, over=1900.0)),
            ["peer-lost not over in time on 1"],
            id="over too late",
        ),
        pytest.param(
            outcome(replace(SEEN, is_on_record=False)),
            ["peer-lost without an audit trail on 1"],
            id="no record",
        ),
        pytest.param(outcome(known=Measure(seconds=1.9, limit=2.0)), [], id="known in time"),
        pytest.param(
            outcome(known=Measure(seconds=2.1, limit=2.0)),
            ["known everywhere after 2.1 s"],
            id="known too late",
        ),
        pytest.param(
            outcome(known=Measure(seconds=None, limit=2.0)),
            ["known everywhere after – s"],
            id="never known",
        ),
        pytest.param(
            outcome(lookup=Measure(seconds=15.1, limit=15.0)),
            ["all found after 15.1 s"],
            id="not healed",
        ),
        pytest.param(
            outcome(wrong=("peer-lost at 10.99.1.3: ",)),
            ["wrong suspicions: peer-lost at 10.99.1.3: "],
            id="wrong suspicion",
        ),
        pytest.param(
            outcome(pulls=(PULL, replace(PULL, error="UNAVAILABLE"))),
            ["1 pulls failed"],
            id="failed pull",
        ),
        pytest.param(
            outcome(calm=(PULL,), pulls=(replace(PULL, seconds=1.5),), is_timed=True),
            [],
            id="slower",
        ),
        pytest.param(
            outcome(calm=(PULL,), pulls=(replace(PULL, seconds=1.6),), is_timed=True),
            ["p99 is 1.60 times the undisturbed"],
            id="too slow",
        ),
        pytest.param(
            outcome(calm=(PULL,), pulls=(replace(PULL, seconds=9.0),)),
            [],
            id="too few pulls to judge",
        ),
        pytest.param(outcome(waits=1), [], id="one wait"),
        pytest.param(outcome(waits=2), ["a pull waited 2 times on a dead peer"], id="two waits"),
        pytest.param(
            DrillOutcome(row="node killed", error="TimeoutError"), ["TimeoutError"], id="not played"
        ),
    ],
)
def test_a_row_says_which_objectives_it_missed(given: DrillOutcome, missed: list[str]) -> None:
    """A row misses late or missing events, missing records, wrong suspicions and failed pulls."""
    assert given.missed == missed


def test_nodes_of_one_condition_may_have_different_limits() -> None:
    """Each limit is judged by itself, though the condition is the same."""
    quick = replace(SEEN, condition="peer-unhealthy", seen=12.0, seen_limit=10.0)
    slow = replace(SEEN, condition="peer-unhealthy", seen=19.0, seen_limit=30.0)
    assert outcome(quick, slow).missed == ["peer-unhealthy seen after 12.0 s"]


def test_p99_is_what_99_of_100_took_at_most() -> None:
    """One in a hundred may be slower; of few pulls it is the slowest."""
    many = [replace(PULL, seconds=float(number)) for number in range(1, 101)]
    assert p99(many) == 99.0
    assert p99(many[:10]) == 10.0


DEAD = Death(node="10.99.1.6", down=100.0, up=110.0)


@pytest.mark.parametrize(
    ("peer", "times", "waits"),
    [
        pytest.param("10.99.1.6", [], 0, id="none"),
        pytest.param("10.99.1.6", [100.1, 100.2], 0, id="under way when it died"),
        pytest.param("10.99.1.6", [100.4, 100.9], 2, id="asked after it died"),
        pytest.param("10.99.1.5", [100.4, 100.9], 0, id="somebody alive"),
        pytest.param("10.99.1.6", [102.0], 0, id="in no pull"),
    ],
)
def test_a_wait_is_a_failed_request_to_a_peer_that_was_dead(
    peer: str, times: list[float], waits: int
) -> None:
    """A request that broke as the peer died is no wait; a later failure is a wait of its pull."""
    failures = [Failure(node=PULL.node, peer=peer, at=at) for at in times]
    assert most_waits([PULL], failures, [DEAD]) == waits


def test_waits_of_different_pulls_are_not_added_up() -> None:
    """One wait each in two pulls is one wait."""
    later = replace(PULL, began=103.0)
    failures = [Failure(node=PULL.node, peer=DEAD.node, at=at) for at in (100.5, 103.5)]
    assert most_waits([PULL, later], failures, [DEAD]) == 1


@pytest.mark.parametrize("tier", Tier, ids=lambda tier: tier.label)
def test_a_row_may_want_more_than_the_tier_but_never_less(tier: Tier) -> None:
    """The objective of the tier holds unless the row's own is tighter."""
    assert limits(tier, None) == (tier.detect, tier.recover)
    assert limits(tier, 1.0) == (1.0, tier.recover)
    assert limits(tier, 9999.0) == (tier.detect, tier.recover)


def test_the_page_shows_the_slowest_node_against_the_objective() -> None:
    """A line has the slowest node's times, the limits and the verdict; errors stand below."""
    given = outcome(SEEN, replace(SEEN, seen=2.5), pulls=(replace(PULL, error="cut"),))
    page = markdown({"cores": 2}, [given])
    [line] = [line for line in page.splitlines() if line.startswith("| node killed")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:6] == [
        "node killed",
        "peer-lost P2 ×2",
        "2.5 ≤ 300",
        "",
        "5.0 ≤ 1800",
        "3.0 ≤ 15",
    ]
    assert cells[-1] == "MISSED: 1 pulls failed"
    assert "- node killed: cut" in page


def test_json_holds_everything_even_what_did_not_happen() -> None:
    """An event that did not happen is null, and each row lists the objectives it missed."""
    [row] = json.loads(as_json(GIVEN, [outcome(replace(SEEN, seen=None, over=None))]))["rows"]
    assert row["sightings"][0]["seen"] is None
    assert row["missed"] == ["peer-lost not seen by 1 of 1"]


def test_the_drawing_has_a_mark_for_each_objective() -> None:
    """Each fault has two bars and two marks; an event that did not happen is marked `never`."""
    drawn = plot.svg(GIVEN, [outcome(), outcome(replace(SEEN, over=None))])
    assert drawn.count('height="12.0" fill="#c0392b"') == 4
    assert drawn.count("never") == 1


def test_the_short_form_is_a_part_of_the_drill() -> None:
    """CI plays rows of the full drill, with a shorter churn whose p99 is not judged."""
    assert {row.name for row in SHORT[:-1]} < {row.name for row in FULL}
    assert FULL[-1].is_timed
    assert not SHORT[-1].is_timed


def test_every_condition_of_the_cluster_and_the_node_is_drilled() -> None:
    """Every condition is in the drill, with six exceptions.

    Left out are two conditions that only a defect of the program would show, a copied identity, for
    which tests/integration/test_router.py has a test, a failed pre-heat, since there is no list by
    default, a bad file of keys, for which tests/integration/test_cluster_keys.py has a test, and a
    conflict about a tag, for which tests/integration/test_tag_trust.py has one.
    """
    drilled = {expected.condition.name for row in FULL for expected in row.expected}
    drilled |= {condition.name for row in KEEPING for condition in row.expected}
    assert CONDITIONS.keys() - drilled == {
        "pulls-failing",
        "event-loop-stalled",
        "preheat-failed",
        "identity-shared",
        "secret-file-bad",
        "tag-conflict",
    }


def test_an_unknown_row_is_refused_with_those_that_there_are() -> None:
    """The error about an unknown row lists the known ones."""
    assert [row.name for row in chosen(SHORT, ["disk full"])] == ["disk full"]
    with pytest.raises(SystemExit, match=r"no such rows: disk fell; there are: .*disk full"):
        chosen(FULL, ["disk fell"])
