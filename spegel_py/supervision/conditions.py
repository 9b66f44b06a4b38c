"""What may be wrong with a node, how bad each of it is, and how soon it must be seen and mended: the one table of it.

| condition | tier | it means |
|---|---|---|
| pulls-failing | P0 | half of the clients' pulls lately ended short or in an error of ours |
| event-loop-stalled | P0 | the HTTP side stood still for seconds |
| isolated | P1 | no peer is connected, though there ought to be some |
| partitioned | P1 | a third or more of the peers known lately, and two at least, went without a goodbye |
| router-down | P1 | the libp2p side has died |
| router-hung | P1 | the libp2p side does not answer |
| identity-shared | P1 | two nodes have one identity: each hides what the other holds |
| containerd-away | P1 | containerd does not answer: what is pulled now is not shared |
| disk-full | P2 | a disk that this node needs is full; pulls go on |
| data-dir-read-only | P2 | nothing can be written below the data directory; pulls go on |
| clock-jumped | P2 | the wall clock was set; nothing that times out here goes by it |
| peer-lost | P2 | one peer went without a goodbye |
| peer-unhealthy | P2 | one peer fails the checks, and is asked for nothing |
| peer-predicted | P2 | one peer is about to fail, and is asked for less |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Tier(Enum):
    """How bad it is, with the objectives in seconds: by when it is seen, and by when it is over."""

    P0 = ("P0", 5.0, 60.0)
    P1 = ("P1", 30.0, 300.0)
    P2 = ("P2", 300.0, 1800.0)

    def __init__(self, label: str, detect: float, recover: float) -> None:
        self.label = label
        self.detect = detect
        self.recover = recover

    @classmethod
    def of(cls, label: object) -> Tier:
        """Return the tier of this name; ValueError if there is none."""
        for tier in cls:
            if tier.label == label:
                return tier
        raise ValueError(f"{label!r} is no tier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that may be wrong.

    An alert is opened when it was so for `patience` seconds, which is well below what its tier allows.
    """

    name: str
    tier: Tier
    patience: float = 0.0


PULLS_FAILING = Condition(name="pulls-failing", tier=Tier.P0)
LOOP_STALLED = Condition(name="event-loop-stalled", tier=Tier.P0)
ISOLATED = Condition(
    name="isolated", tier=Tier.P1, patience=10.0
)  # a start finds its first peer within that
PARTITIONED = Condition(name="partitioned", tier=Tier.P1, patience=2.0)
ROUTER_DOWN = Condition(name="router-down", tier=Tier.P1)
ROUTER_HUNG = Condition(name="router-hung", tier=Tier.P1)
IDENTITY_SHARED = Condition(name="identity-shared", tier=Tier.P1)
CONTAINERD_AWAY = Condition(name="containerd-away", tier=Tier.P1)
DISK_FULL = Condition(name="disk-full", tier=Tier.P2)
DATA_DIR_READ_ONLY = Condition(name="data-dir-read-only", tier=Tier.P2)
CLOCK_JUMPED = Condition(name="clock-jumped", tier=Tier.P2)
PEER_LOST = Condition(name="peer-lost", tier=Tier.P2)
PEER_UNHEALTHY = Condition(name="peer-unhealthy", tier=Tier.P2)
PEER_PREDICTED = Condition(name="peer-predicted", tier=Tier.P2)

CONDITIONS: Mapping[str, Condition] = {
    each.name: each
    for each in (
        PULLS_FAILING,
        LOOP_STALLED,
        ISOLATED,
        PARTITIONED,
        ROUTER_DOWN,
        ROUTER_HUNG,
        IDENTITY_SHARED,
        CONTAINERD_AWAY,
        DISK_FULL,
        DATA_DIR_READ_ONLY,
        CLOCK_JUMPED,
        PEER_LOST,
        PEER_UNHEALTHY,
        PEER_PREDICTED,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A condition that is seen now: of whom (a peer, a folder; empty for the node), since when (monotonic seconds, as
    far as is known), by whom it is seen, and what there is to say."""

    condition: Condition
    since: float
    source: str
    subject: str = ""
    detail: str = ""
