"""The trees of one coordinator, and the effects of nodes that join and leave."""

from __future__ import annotations

from spegel_py.inflight.coordinator import MAX_TREES, SWEEP_EVERY, Coordinator
from spegel_py.inflight.messages import (
    FetchUpstream,
    FollowParent,
    Heartbeat,
    ParentRequest,
    RetryLater,
    Role,
)
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.inflight.rules import InFlightRules
from spegel_py.oci.digest import Digest

RULES = InFlightRules()
MEMBERS = ["A", "B", "C"]


def of(name: str, members: list[str]) -> Digest:
    """Return a digest that the node `name` coordinates among these members."""
    digests = (Digest.of(str(number).encode()) for number in range(1000))
    return next(digest for digest in digests if ranked_nodes(digest, members, 1) == [name])


def coordinator(name: str = "A", members: list[str] = MEMBERS) -> Coordinator:
    """Return a coordinator that has long been a member."""
    made = Coordinator(own=name, now=0.0)
    made.set_members([member for member in members if member != name], 0.0)
    return made


def test_each_digest_has_a_tree_of_its_own() -> None:
    """The leader for one digest is a follower for another digest."""
    mine = coordinator()
    first, second = of("A", MEMBERS), Digest.of(b"other")
    assert isinstance(mine.answer("B", ParentRequest(first), 10.0), FetchUpstream)
    assert isinstance(mine.answer("C", ParentRequest(first), 10.0), FollowParent)
    assert isinstance(mine.answer("C", ParentRequest(second), 20.0), FetchUpstream | RetryLater)


def test_a_node_that_is_gone_is_in_no_tree() -> None:
    """Its followers are sent to another parent at once."""
    mine, digest = coordinator(), of("A", MEMBERS)
    mine.answer("B", ParentRequest(digest), 10.0)
    mine.set_members(["C"], 12.0)
    assert isinstance(mine.answer("C", ParentRequest(digest), 12.0), FetchUpstream)


def test_who_becomes_the_coordinator_first_hears_what_is_in_flight() -> None:
    """A new coordinator first gives the participants time for their heartbeats."""
    digest = of("B", MEMBERS)
    if ranked_nodes(digest, ["A", "C"], 1) != ["A"]:
        digest = next(
            each
            for number in range(1000)
            if ranked_nodes(each := Digest.of(str(number).encode()), MEMBERS, 2) == ["B", "A"]
        )
    mine = coordinator()
    mine.set_members(["C"], 10.0)
    assert isinstance(mine.answer("C", ParentRequest(digest), 10.1), RetryLater)
    mine.answer("A", Heartbeat(digest, Role.LEADER, 5), 10.2)
    assert isinstance(mine.answer("C", ParentRequest(digest), 10.2), FollowParent)


def test_who_was_the_coordinator_all_the_time_sends_upstream_at_once() -> None:
    """A node that joins or leaves changes nothing for most digests."""
    mine = coordinator()
    mine.set_members(["C"], 10.0)
    assert isinstance(mine.answer("C", ParentRequest(of("A", MEMBERS)), 10.1), FetchUpstream)


def test_a_node_that_has_just_started_may_know_nothing_yet() -> None:
    """It gives the other nodes time for heartbeats. Alone it need not wait."""
    started = Coordinator(own="A", now=10.0)
    digest = of("A", MEMBERS)
    assert isinstance(started.answer("A", ParentRequest(digest), 10.0), FetchUpstream)
    joined = Coordinator(own="A", now=10.0)
    joined.set_members(["B", "C"], 10.1)
    assert isinstance(joined.answer("B", ParentRequest(digest), 10.2), RetryLater)


def test_who_is_asked_in_another_ones_place_waits_too() -> None:
    """The silent coordinator may have sent a leader upstream before.

    That leader will turn to the stand-in too.
    """
    mine, digest, pause = coordinator(), of("B", MEMBERS), RULES.stand_in(len(MEMBERS))
    assert pause > RULES.leader_heartbeat + RULES.answer_within(len(MEMBERS))
    assert mine.answer("C", ParentRequest(digest), 10.0) == RetryLater(pause)
    assert isinstance(mine.answer("C", ParentRequest(digest), 10.0 + pause), FetchUpstream)


def test_who_stands_in_sends_those_that_know_holders_to_them_at_once() -> None:
    """That costs upstream nothing, whatever the coordinator knew."""
    assert isinstance(
        coordinator().answer("C", ParentRequest(of("B", MEMBERS), held=1), 10.0), FetchUpstream
    )


def test_tree_are_kept_within_bounds() -> None:
    """Beyond the limit the trees used last are kept, and empty trees are removed."""
    mine = coordinator()
    for number in range(MAX_TREES + 10):
        mine.answer("B", Heartbeat(Digest.of(str(number).encode()), Role.LEADER, 1), 10.0)
    assert len(mine.trees) == MAX_TREES
    for _ in range(SWEEP_EVERY):
        mine.answer("B", Heartbeat(of("A", MEMBERS), Role.LEFT), 1000.0)
    assert len(mine.trees) == 0
