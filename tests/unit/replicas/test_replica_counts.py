"""Which replicas of other nodes count."""

from __future__ import annotations

from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_counts import ReplicaCounts
from spegel_py.replicas.replica_rules import GRACE, SHORT_GRACE

APP = Digest.of(b"app")


def test_a_lost_node_counts_for_a_while() -> None:
    """For longer if two others are left, so that a restart of nodes in turn moves nothing."""
    counts = ReplicaCounts()
    assert counts.update(APP, "abc", connected="abc", now=0.0) == set("abc")
    assert counts.update(APP, "bc", connected="bc", now=GRACE - 1) == set("abc")
    assert counts.update(APP, "bc", connected="bc", now=GRACE + 1) == set("bc")
    assert counts.update(APP, "b", connected="b", now=400.0) == set("bc")
    assert counts.update(APP, "b", connected="b", now=400.0 + SHORT_GRACE) == set("bc")
    assert counts.update(APP, "b", connected="b", now=401.0 + SHORT_GRACE) == {"b"}


def test_this_nodes_own_replica_is_one_of_those_that_are_left() -> None:
    """So of three nodes with a replica one may restart, whichever of the others counts."""
    counts = ReplicaCounts()
    counts.update(APP, "ab", connected="ab", now=0.0, is_held=True)
    counts.update(APP, "b", connected="b", now=1.0, is_held=True)
    later = SHORT_GRACE + 2
    assert counts.update(APP, "b", connected="b", now=later, is_held=True) == set("ab")
    assert counts.update(APP, "b", connected="b", now=later, is_held=False) == {"b"}


def test_a_node_that_comes_back_counts_anew() -> None:
    counts = ReplicaCounts()
    counts.update(APP, "a", connected="a", now=0.0)
    assert counts.update(APP, "", connected="", now=20.0) == {"a"}
    assert counts.update(APP, "a", connected="a", now=100.0) == {"a"}
    assert counts.update(APP, "", connected="", now=130.0) == {"a"}
    assert counts.update(APP, "", connected="", now=130.0 + SHORT_GRACE) == {"a"}
    assert counts.update(APP, "", connected="", now=131.0 + SHORT_GRACE) == set()


def test_a_node_that_is_back_has_time_to_announce_its_replicas() -> None:
    """It is connected before it has walked its store."""
    counts = ReplicaCounts()
    counts.update(APP, "a", connected="a", now=0.0)
    counts.update(APP, "", connected="", now=30.0)
    assert counts.update(APP, "", connected="a", now=40.0) == {"a"}
    assert counts.update(APP, "", connected="a", now=31.0 + SHORT_GRACE) == set()


def test_a_shortage_has_a_beginning() -> None:
    counts = ReplicaCounts()
    assert counts.missing_for(APP, is_missing=True, now=10.0) == 0.0
    assert counts.missing_for(APP, is_missing=True, now=70.0) == 60.0
    assert counts.missing_for(APP, is_missing=False, now=80.0) == 0.0
    assert counts.missing_for(APP, is_missing=True, now=90.0) == 0.0


def test_a_connected_node_without_its_replica_has_released_it() -> None:
    counts = ReplicaCounts()
    counts.update(APP, "ab", connected="ab", now=0.0)
    assert counts.update(APP, "a", connected="ab", now=1.0) == {"a"}


def test_a_surplus_has_a_beginning() -> None:
    """It starts anew after each moment without one."""
    counts = ReplicaCounts()
    assert counts.surplus_for(APP, has_surplus=True, now=10.0) == 0.0
    assert counts.surplus_for(APP, has_surplus=True, now=70.0) == 60.0
    assert counts.surplus_for(APP, has_surplus=False, now=80.0) == 0.0
    assert counts.surplus_for(APP, has_surplus=True, now=90.0) == 0.0
    counts.keep([])
    assert counts.surplus_for(APP, has_surplus=True, now=200.0) == 0.0


def test_a_node_that_drains_does_not_count() -> None:
    """Nor does it as a lost node later: nobody waits for it."""
    counts = ReplicaCounts()
    assert counts.update(APP, "ab", connected="ab", now=0.0) == set("ab")
    assert counts.update(APP, "ab", connected="ab", now=10.0, leaving="a") == {"b"}
    assert counts.update(APP, "b", connected="b", now=20.0) == {"b"}
    assert counts.update(APP, "ab", connected="ab", now=30.0) == set("ab")
