"""When a node is ready, and when it is not alive."""

from __future__ import annotations

import pytest

from spegel_py.supervision.readiness import ReadinessInput, liveness, readiness


@pytest.mark.parametrize(
    ("peers", "alone", "has_lost", "grace", "is_ready"),
    [
        (1, 0.0, False, None, True),
        (0, 29.9, False, 30.0, False),
        (0, 30.0, False, 30.0, True),
        (0, 9999.0, False, None, False),
        (0, 0.0, False, 0.0, True),
        (0, 9999.0, True, 30.0, False),
    ],
    ids=["a peer", "in the grace period", "alone", "never alone", "at once", "its peers were lost"],
)
def test_when_a_node_is_ready(
    peers: int, alone: float, grace: float | None, *, has_lost: bool, is_ready: bool
) -> None:
    """With a peer, as Spegel; without one after the grace period, unless peers were lost."""
    body = readiness(
        ReadinessInput(peers=peers, alone=alone, has_lost=has_lost, ready_when_alone=grace)
    )
    assert (body["ready"], body["reasons"] == [], body["peers"]) == (is_ready, is_ready, peers)


def test_a_node_waits_for_its_pre_heat_list() -> None:
    """With the reason, though it has a peer."""
    facts = ReadinessInput(
        peers=1, alone=0.0, has_lost=False, ready_when_alone=None, not_preheated="app:1 is missing"
    )
    assert readiness(facts)["reasons"] == ["app:1 is missing"]


def test_a_node_is_alive_unless_a_restart_helps() -> None:
    """A loop that stood still and a libp2p side beyond repair are reasons, and nothing else is."""
    assert liveness(lag=9.9, beyond_repair=[]) == {"live": True, "reasons": []}
    assert liveness(lag=12.0, beyond_repair=["router-hung"]) == {
        "live": False,
        "reasons": ["router-hung: all repairs were in vain", "the event loop stood still for 12 s"],
    }
