"""The answers of `/readyz` and `/livez`, with the reasons. Pure.

Ready means the same as in Spegel: a peer is connected. A node that never had a peer, or whose peers
all said goodbye, is ready too after a grace period alone: a cluster of one node must come up. A
node that *lost* its peers is not ready until a peer is back. Besides, the node must have content
for its peers: before containerd's first answer it has none. Images of the pre-heat list may keep it
from being ready, for a limited time. A node is alive unless a restart would
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
        nothing_shared: the reason why no content of this node can be shared; None if it can.
        not_preheated: the reason why the images of the pre-heat list keep the node from being
            ready; None if they do not.
    """

    peers: int
    alone: float
    has_lost: bool
    ready_when_alone: float | None
    nothing_shared: str | None = None
    not_preheated: str | None = None


def readiness(facts: ReadinessInput) -> Mapping[str, object]:
    """Return the body of `/readyz`; `reasons` is empty if the node is ready."""
    reasons = _reasons(facts)
    return {
        "ready": not reasons,
        "reasons": reasons,
        "peers": facts.peers,
        "seconds_without_peer": round(facts.alone, 1),
    }


def why_not_ready(facts: ReadinessInput) -> str | None:
    """Return the reason why the node is not ready, None if it is."""
    return "; ".join(_reasons(facts)) or None


def _reasons(facts: ReadinessInput) -> list[str]:
    reasons = (facts.nothing_shared, facts.not_preheated, _why_alone(facts))
    return [reason for reason in reasons if reason]


def _why_alone(facts: ReadinessInput) -> str | None:
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
