"""The rows of crowd: the faults, and how often the registry may send the layer under each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.crowd import faults
from tests.faults.crowd.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault."""

    name: str
    fault: Fault
    copies: float = 1.03
    """How often the registry may send the layer."""
    why: str = ""
    """Why it may send more than one copy."""
    tries: int = 1
    """How often each pull may be attempted, as a kubelet does."""
    strikes_first: bool = False
    """Whether the fault strikes before the pulls begin, rather than in their middle."""


ROWS = (
    Row(name="nothing", fault=faults.nothing),
    Row(
        name="leader's mirror killed",
        fault=faults.leader_mirror_killed,
        copies=2.1,
        why="its containerd goes on unseen, and a second leader fetches too",
    ),
    Row(
        name="leader's containerd killed",
        fault=faults.leader_containerd_killed,
        copies=1.5,
        why="bytes that no follower has yet are lost with it",
    ),
    Row(
        name="leader's machine lost",
        fault=faults.leader_lost,
        copies=1.5,
        why="bytes that no follower has are fetched again",
    ),
    Row(
        name="inner follower's mirror killed",
        fault=faults.inner_follower_killed,
        copies=1.7,
        why="its containerd goes upstream",
    ),
    Row(
        name="coordinator killed",
        fault=faults.coordinator_killed,
        copies=1.7,
        why="its containerd goes upstream",
    ),
    Row(
        name="coordinator killed, then the leader",
        fault=faults.coordinator_then_leader_killed,
        copies=2.7,
        why="two containerds go upstream on their own, and a new leader fetches too",
    ),
    Row(
        name="leader's upstream a black hole",
        fault=faults.upstream_black_hole,
        copies=1.5,
        why="a new leader goes on",
    ),
    Row(
        name="leader's upstream reset",
        fault=faults.upstream_reset,
        copies=2.1,
        why="two leaders may go on at once",
    ),
    Row(
        name="leader slow",
        fault=faults.leader_slow,
        copies=2.1,
        why="if it almost stalls, a second leader fetches too",
    ),
    Row(
        name="registry restarted",
        fault=faults.registry_restarted,
        copies=4.0,
        why="all nodes begin again",
        tries=3,
    ),
    Row(name="halves", fault=faults.halves, copies=2.1, why="each half fetches the rest"),
    Row(
        name="halves joined",
        fault=faults.halves_joined,
        strikes_first=True,
        copies=2.1,
        why="each half began to fetch",
    ),
)
