"""How the flash crowds' outcomes are judged and shown."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from tests.benchmarks.flash import page, plot
from tests.benchmarks.flash.outcome import Outcome, middle, missed, ratio
from tests.benchmarks.flash.plan import ALONE, FIVE, FULL, NO_MIRROR, SHARING, TWENTY, Case

CROWD = Case(8, FIVE)
CONDITIONS = {"spegel-py": "0.1.0", "cores": 2, "time": "2026-01-01T00:00:00"}


def outcome(
    *, makespan: float = 9.0, upstream: int = 100, gets: int = 1, failed: tuple[str, ...] = ()
) -> Outcome:
    return Outcome(
        seconds=(makespan - 1, makespan),
        makespan=makespan,
        image=100,
        upstream=upstream,
        manifests={"/v2/flash/app/manifests/sha256:aa": gets},
        cpu=1.5,
        failed=failed,
    )


def test_a_crowd_that_shares_well_misses_nothing() -> None:
    """Neither a few bytes nor a few seconds too many count within the bounds."""
    rounds = {ALONE: outcome(), SHARING: outcome(makespan=11.2, upstream=103)}
    assert ratio(CROWD, rounds) == 11.2 / 9.0
    assert missed(CROWD, rounds) == []


def test_what_is_missed_is_named() -> None:
    """Bytes, manifests, time and failed pulls: each has its line, also of those that only stand
    beside.
    """
    rounds = {
        ALONE: outcome(failed=("10.99.1.1: no",)),
        SHARING: outcome(makespan=20.0, upstream=150, gets=2),
    }
    assert missed(CROWD, rounds) == [
        f"{ALONE}: 10.99.1.1: no",
        "the registry sent 1.50 times the image",
        "1 manifests were fetched more than once",
        f"makespan 2.22 times that of {ALONE}",
    ]


def test_of_several_plays_the_middle_counts_and_every_failure() -> None:
    """What went wrong in any of them is not lost in the middle one."""
    plays = [
        outcome(makespan=3.0, failed=("a",)),
        outcome(makespan=9.0, upstream=120),
        outcome(makespan=4.0, gets=2),
    ]
    found = middle(plays)
    assert (found.makespan, found.failed, found.upstream) == (4.0, ("a",), 120)
    assert [*found.manifests.values()] == [2]


def test_small_layers_have_more_time_and_no_limit_is_held_against_no_mirror() -> None:
    """The bound and whom it is held against depend on the crowd."""
    rounds = {
        ALONE: outcome(makespan=10.0),
        NO_MIRROR: outcome(makespan=10.0),
        SHARING: outcome(makespan=13.0),
    }
    assert missed(Case(8, TWENTY), rounds) == []
    unlimited = Case(8, FIVE, upstream=None)
    assert missed(unlimited, rounds) == [f"makespan 1.30 times that of {NO_MIRROR}"]
    assert ratio(Case(8, FIVE, stagger=1.5), rounds) is None


def test_who_did_not_take_part_is_not_judged() -> None:
    """A run of some candidates is shown all the same."""
    assert missed(CROWD, {NO_MIRROR: outcome(upstream=800)}) == []


def test_the_page_the_numbers_and_the_drawing_hold_every_candidate() -> None:
    """All three are whole for every crowd that there is."""
    rounds = [(case, {NO_MIRROR: outcome(upstream=800), SHARING: outcome()}) for case in FULL]
    text = page.markdown(CONDITIONS, rounds)
    assert text.count(f"| {SHARING} ") == len(FULL)
    assert "8.00" in text
    found = json.loads(page.as_json(CONDITIONS, rounds))
    assert [each["case"]["name"] for each in found["rounds"]] == [case.name for case in FULL]
    drawing = ElementTree.fromstring(plot.svg(CONDITIONS, rounds))
    assert len(drawing.findall("{*}rect")) > 4 * len(FULL)
