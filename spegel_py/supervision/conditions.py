"""The table of conditions: their meaning, their tier, and who repairs each.

| condition | tier | meaning | repaired by |
|---|---|---|---|
| pulls-failing | P0 | half of the clients' recent pulls were cut or ended in an error of ours | 1 |
| event-loop-stalled | P0 | the HTTP side stood still for seconds | `/livez` fails after 10 s |
| isolated | P1 | no peer is connected, though some ought to be | `rejoin` |
| partitioned | P1 | a third or more of the known peers, two at least, were lost | `rejoin` |
| router-down | P1 | the libp2p side has died | the router restarts it |
| router-hung | P1 | the libp2p side does not answer | `restart libp2p` |
| identity-shared | P1 | two nodes share an identity | the operator, 2 |
| containerd-away | P1 | containerd does not answer | `reconnect containerd`, 4 |
| floor-missed | P1 | an image has fewer replicas than its floor for long | the scans, 5 |
| disk-full | P2 | a disk that this node needs is full; pulls go on | the operator, 3 |
| data-dir-read-only | P2 | the data directory cannot be written; pulls go on | the operator, 3 |
| clock-jumped | P2 | the wall clock was set | nobody: no deadline here uses it |
| peer-lost | P2 | one peer went without a goodbye | the mesh redials it |
| peer-unhealthy | P2 | one peer fails its checks | the weights avoid it until checks pass again |
| peer-predicted | P2 | one peer is about to fail | its weight falls, hedged requests avoid it |
| draining | P2 | this node gives its only copies away | the end of the cause, 6 |
| preheat-failed | P2 | the pre-heat list, or an image of it, cannot be had | the operator, 7 |
| secret-file-bad | P2 | a file of keys or tokens cannot be used, or everybody can read it | 8 |
| tag-conflict | P2 | nodes contradict each other about a tag | the pulls that follow, 9 |

1. Hedged requests and scores move pulls to other peers.
2. The data directory was copied. Each of the nodes hides the content of the other.
3. Records wait in memory until the disk can be written.
4. Content that is pulled meanwhile is not shared.
5. Every node scans its images all 30 s, and asks nodes again that refused.
6. The subject is the cause: a command, a failing disk, a predicted failure, a cordoned machine.
7. The subject is the file, whose earlier list stays, or the image, which is tried again.
8. The operator. The subject is the file, whose earlier content stays in use until a restart.
9. The subject is the tag. The word of the node that is alone is not believed; the pull goes to the
   registry.

A lost peer went without a goodbye. The actions in backquotes are those of
`repairs.repair_table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Tier(Enum):
    """The severity of a condition, with its objectives: seconds to detection, and to recovery."""

    P0 = ("P0", 5.0, 60.0)
    P1 = ("P1", 30.0, 300.0)
    P2 = ("P2", 300.0, 1800.0)

    def __init__(self, label: str, detect: float, recover: float) -> None:
        self.label = label
        self.detect = detect
        self.recover = recover

    @classmethod
    def of(cls, label: object) -> Tier:
        """Return the tier of this name. Raises ValueError if there is none."""
        for tier in cls:
            if tier.label == label:
                return tier
        raise ValueError(f"{label!r} is no tier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that can be wrong.

    `patience` is the number of seconds that the condition must last before its alert is opened. It
    is well below the time to detection of the tier.
    """

    name: str
    tier: Tier
    patience: float = 0.0


PULLS_FAILING = Condition(name="pulls-failing", tier=Tier.P0)
LOOP_STALLED = Condition(name="event-loop-stalled", tier=Tier.P0)
# A node that starts finds its first peer within 10 s.
ISOLATED = Condition(name="isolated", tier=Tier.P1, patience=10.0)
PARTITIONED = Condition(name="partitioned", tier=Tier.P1, patience=2.0)
ROUTER_DOWN = Condition(name="router-down", tier=Tier.P1)
ROUTER_HUNG = Condition(name="router-hung", tier=Tier.P1)
IDENTITY_SHARED = Condition(name="identity-shared", tier=Tier.P1)
CONTAINERD_AWAY = Condition(name="containerd-away", tier=Tier.P1)
FLOOR_MISSED = Condition(name="floor-missed", tier=Tier.P1)
DISK_FULL = Condition(name="disk-full", tier=Tier.P2)
DATA_DIR_READ_ONLY = Condition(name="data-dir-read-only", tier=Tier.P2)
CLOCK_JUMPED = Condition(name="clock-jumped", tier=Tier.P2)
PEER_LOST = Condition(name="peer-lost", tier=Tier.P2)
PEER_UNHEALTHY = Condition(name="peer-unhealthy", tier=Tier.P2)
PEER_PREDICTED = Condition(name="peer-predicted", tier=Tier.P2)
DRAINING = Condition(name="draining", tier=Tier.P2)
PREHEAT_FAILED = Condition(name="preheat-failed", tier=Tier.P2)
SECRET_FILE_BAD = Condition(name="secret-file-bad", tier=Tier.P2)
TAG_CONFLICT = Condition(name="tag-conflict", tier=Tier.P2)

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
        FLOOR_MISSED,
        DISK_FULL,
        DATA_DIR_READ_ONLY,
        CLOCK_JUMPED,
        PEER_LOST,
        PEER_UNHEALTHY,
        PEER_PREDICTED,
        DRAINING,
        PREHEAT_FAILED,
        SECRET_FILE_BAD,
        TAG_CONFLICT,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A condition that is present now.

    `subject` is the peer or the folder, empty for the node itself. `since` is the monotonic time at
    which the condition began, as far as it is known. `source` is the part that saw it.
    """

    condition: Condition
    since: float
    source: str
    subject: str = ""
    detail: str = ""
