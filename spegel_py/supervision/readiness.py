"""The answers of `/readyz` and `/livez`, with the reasons. Pure.

Ready means the same as in Spegel: a peer is connected. A node that never had a peer, or whose peers
all said goodbye, is ready too after a grace period alone: a cluster of one node must come up. A
node that *lost* its peers is not ready until a peer is back. A node is alive unless a restart would
help it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

STALLED = 10.0
"""Seconds that one round of the event loop takes when the process should be restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessInput:
    """The facts from which readiness is decided.

    Args:
        peers: number of connected peers.
        alone: seconds for which no peer has been connected.
        has_lost: True if all peers went, and some without a goodbye.
        ready_when_alone: seconds alone after which the node is ready; None if it never is.
    """

    peers: int
    alone: float
    has_lost: bool
    ready_when_alone: float | None


def readiness(facts: ReadinessInput) -> Mapping[str, object]:
    """Return the body of `/readyz`; `reasons` is empty if the node is ready."""
    why = why_not_ready(facts)
    return {
        "ready": why is None,
        "reasons": [] if why is None else [why],
        "peers": facts.peers,
        "seconds_without_peer": round(facts.alone, 1),
    }


def why_not_ready(facts: ReadinessInput) -> str | None:
    """Return the reason why the node is not ready, None if it is."""
    if facts.peers:
        return None
    if facts.has_lost:
        return "no peer is connected, and those there were went without a goodbye"
    grace = facts.ready_when_alone
    return None if grace is not None and facts.alone >= grace else "no peer is connected"


def liveness(*, lag: float, beyond_repair: Collection[str]) -> Mapping[str, object]:
    """Return the body of `/livez`.

    Args:
        lag: seconds of the last round of the event loop.
        beyond_repair: conditions that only a restart repairs.
    """
    reasons = [f"{name}: all repairs were in vain" for name in sorted(beyond_repair)]
    if lag >= STALLED:
        reasons.append(f"the event loop stood still for {lag:.0f} s")
    return {"live": not reasons, "reasons": reasons}
