"""What `/readyz` and `/livez` say, and why. Pure.

Ready is what Spegel means by it: a peer is connected. A node that never had one, or whose peers all said goodbye, is
ready as well once it has been alone for the grace period: a cluster of one must come up. A node that *lost* its peers
is not ready until one is back. Alive is a node unless a restart would help it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

STALLED = 10.0
"""Seconds that one round of the event loop takes when the process had better be started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What readiness goes by: for how many seconds there has been no peer, whether some were lost, and for how long a
    node must be alone to be ready all the same (None: for ever)."""

    peers: int
    alone: float
    has_lost: bool
    ready_when_alone: float | None


def readiness(standing: Standing) -> Mapping[str, object]:
    """Return the body of `/readyz`; `reasons` says what keeps the node from being ready."""
    why = why_not_ready(standing)
    return {
        "ready": why is None,
        "reasons": [] if why is None else [why],
        "peers": standing.peers,
        "seconds_without_peer": round(standing.alone, 1),
    }


def why_not_ready(standing: Standing) -> str | None:
    """Return what keeps the node from being ready, None if nothing does."""
    if standing.peers:
        return None
    if standing.has_lost:
        return "no peer is connected, and those there were went without a goodbye"
    grace = standing.ready_when_alone
    return None if grace is not None and standing.alone >= grace else "no peer is connected"


def liveness(*, lag: float, beyond_repair: Collection[str]) -> Mapping[str, object]:
    """Return the body of `/livez`; `lag` is the event loop's, `beyond_repair` the conditions that a restart mends."""
    reasons = [f"{name}: all repairs were in vain" for name in sorted(beyond_repair)]
    if lag >= STALLED:
        reasons.append(f"the event loop stood still for {lag:.0f} s")
    return {"live": not reasons, "reasons": reasons}
