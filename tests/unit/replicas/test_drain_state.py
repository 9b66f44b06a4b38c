"""Which peers do not count, and when too many nodes drain; the reports that a node is sick."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.replicas.drain_state import DrainCause, DrainState, failing, is_braked
from spegel_py.replicas.sick_reports import MAX_REPORTERS, REST, WITHIN, SickReports


def test_a_predicted_peer_is_left_out_until_it_is_well_again() -> None:
    """The prediction ends when the failure comes; the peer stays left out while it is unhealthy."""
    left_out = failing((), predicted={"a"}, unhealthy=())
    assert left_out == {"a"}
    left_out = failing(left_out, predicted=(), unhealthy={"a", "b"})
    assert left_out == {"a"}
    assert failing(left_out, predicted=(), unhealthy={"b"}) == frozenset()


def test_a_false_alarm_ends_with_the_prediction() -> None:
    assert failing({"a"}, predicted=(), unhealthy=()) == frozenset()


@pytest.mark.parametrize(
    ("draining", "nodes", "expected"),
    [(0, 2, False), (1, 2, True), (1, 5, True), (1, 9, False), (2, 10, True), (9, 50, False)],
)
def test_not_more_than_a_fifth_drains_by_itself(
    draining: int, nodes: int, *, expected: bool
) -> None:
    assert is_braked(draining, nodes) is expected


def test_the_state_names_its_causes() -> None:
    state = DrainState()
    assert (state.is_draining, state.describe()) == (False, None)
    state.causes = {DrainCause.DISK: "it is full"}
    assert (state.is_draining, state.describe()) == (True, {"disk": "it is full"})
    assert "disk" in repr(state)


def test_two_peers_within_five_minutes_are_needed() -> None:
    reports = SickReports()
    reports.add("a", "checks take longer", 0.0)
    reports.add("a", "checks take longer", 100.0)
    assert reports.reason(101.0) == ""
    reports.add("b", "bodies come slower", 102.0)
    assert reports.reason(103.0) == "2 nodes predict that it fails: bodies come slower"
    assert reports.reason(100.0 + WITHIN + 1) == ""


def test_a_drain_does_not_begin_again_at_once() -> None:
    """It goes on as long as peers report, and begins at most once in ten minutes."""
    reports = SickReports()
    for now in (0.0, 250.0, 500.0):
        for peer in ("a", "b"):
            reports.add(peer, "slow", now)
        assert reports.reason(now)
    assert reports.reason(500.0 + WITHIN + 1) == ""
    for peer in ("a", "b"):
        reports.add(peer, "slow", 1000.0)
    assert reports.reason(1000.0)
    fresh = SickReports()
    for now, expected in ((0.0, True), (WITHIN + 10.0, False), (REST + 1.0, True)):
        fresh.reason(now)
        for peer in ("a", "b"):
            fresh.add(peer, "slow", now)
        assert bool(fresh.reason(now)) is expected


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(0, 2000)), max_size=400))
def test_reports_are_bounded(reported: list[tuple[str, float]]) -> None:
    reports = SickReports()
    for peer, now in sorted(reported, key=lambda one: one[1]):
        reports.add(peer, "slow", now)
    assert len(reports._heard) <= MAX_REPORTERS
