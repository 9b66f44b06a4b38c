"""The rows of the drill: each fault, the alerts it must raise, and the nodes that stay well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from spegel_py.supervision import conditions
from spegel_py.supervision.conditions import Condition
from tests.faults.drill import faults
from tests.faults.drill.cluster import CLOCK, CRASHABLE, SMALL_DISK, DrillCluster
from tests.faults.drill.faults import Fault, halves
from tests.support.lab import Node

DEAD, SILENT, HEALED = 2.0, 10.0, 15.0
"""Seconds until all nodes know a killed node, until they know a silent one, and to heal.

A node is silent if it is frozen, cut off or a black hole. The cluster has healed when every node
finds every image.
"""
ACTIVE = 30.0
"""Seconds to find a fault by active checks only; the bound is Kraken's."""


class Nodes(Enum):
    """A group of nodes, relative to a fault."""

    VICTIM = auto()
    OTHERS = auto()
    ALL = auto()
    PULLERS = auto()
    BYSTANDERS = auto()  # neither pullers nor the victim

    def of(self, cluster: DrillCluster, victim: Node) -> list[Node]:
        """Return the nodes of the group."""
        match self:
            case Nodes.VICTIM:
                return [victim]
            case Nodes.ALL:
                return list(cluster.nodes)
            case Nodes.PULLERS:
                return list(cluster.pullers)
            case Nodes.OTHERS:
                return _without(cluster.nodes, [victim])
            case Nodes.BYSTANDERS:
                return _without(cluster.nodes, [victim, *cluster.pullers])


class Well(Enum):
    """The nodes that are well and reach each other all the time, so no suspicion is justified."""

    OTHERS = auto()  # all but the victim
    ALL = auto()
    HALVES = auto()
    STEADY = auto()  # all but the last two

    def groups(self, cluster: DrillCluster, victim: Node) -> list[list[Node]]:
        """Return groups of nodes; the nodes of a group reach each other."""
        match self:
            case Well.OTHERS:
                return [_without(cluster.nodes, [victim])]
            case Well.ALL:
                return [list(cluster.nodes)]
            case Well.HALVES:
                return list(halves(cluster))
            case Well.STEADY:
                return [cluster.nodes[:-2]]


def _without(nodes: Sequence[Node], excluded: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node not in excluded]


@dataclass(frozen=True, slots=True)
class ExpectedAlert:
    """An alert that these nodes must raise, within `limit` seconds or the limit of its tier."""

    condition: Condition
    nodes: Nodes
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault."""

    name: str
    fault: Fault
    victim: int = CRASHABLE
    """The index of the node that the fault strikes."""
    expected: tuple[ExpectedAlert, ...] = ()
    known: float | None = None
    """Seconds until no other node offers the victim."""
    well: Well = Well.OTHERS
    heals_itself: bool = False
    """Whether the fault ends without mending. Then times are measured from the fault."""
    calm: float = 0.0
    """Seconds of undisturbed pulls before the fault, as the baseline."""
    is_timed: bool = False
    """Whether the p99 is judged."""
    is_short: bool = True


def _rows(*, is_short: bool) -> tuple[Row, ...]:
    seconds = 30.0 if is_short else 120.0
    lost = ExpectedAlert(conditions.PEER_LOST, Nodes.OTHERS)
    return (
        Row(name="node killed", fault=faults.killed, expected=(lost,), known=DEAD),
        Row(
            name="node frozen",
            fault=faults.frozen,
            victim=CLOCK,
            expected=(lost,),
            known=SILENT,
            is_short=False,
        ),
        Row(
            name="link down",
            fault=faults.unplugged,
            victim=SMALL_DISK,
            expected=(lost, ExpectedAlert(conditions.ISOLATED, Nodes.VICTIM)),
            known=SILENT,
            is_short=False,
        ),
        Row(
            name="partition in halves",
            fault=faults.in_halves,
            expected=(ExpectedAlert(conditions.PARTITIONED, Nodes.ALL),),
            well=Well.HALVES,
        ),
        Row(
            name="registry port a black hole",
            fault=faults.black_hole,
            victim=0,
            expected=(
                ExpectedAlert(conditions.PEER_UNHEALTHY, Nodes.PULLERS, SILENT),
                ExpectedAlert(conditions.PEER_UNHEALTHY, Nodes.BYSTANDERS, ACTIVE),
            ),
        ),
        Row(
            name="containerd killed",
            fault=faults.containerd_killed,
            victim=CLOCK,
            expected=(ExpectedAlert(conditions.CONTAINERD_AWAY, Nodes.VICTIM),),
            well=Well.ALL,
        ),
        Row(
            name="disk full",
            fault=faults.disk_full,
            victim=SMALL_DISK,
            expected=(ExpectedAlert(conditions.DISK_FULL, Nodes.VICTIM),),
            well=Well.ALL,
        ),
        Row(
            name="disk read-only",
            fault=faults.disk_read_only,
            victim=SMALL_DISK,
            expected=(ExpectedAlert(conditions.DATA_DIR_READ_ONLY, Nodes.VICTIM),),
            well=Well.ALL,
            is_short=False,
        ),
        Row(
            name="libp2p side crashed",
            fault=faults.libp2p_crashed,
            expected=(ExpectedAlert(conditions.ROUTER_DOWN, Nodes.VICTIM),),
            heals_itself=True,
        ),
        Row(
            name="libp2p side hung",
            fault=faults.libp2p_hung,
            expected=(ExpectedAlert(conditions.ROUTER_HUNG, Nodes.VICTIM), lost),
            known=SILENT,
            heals_itself=True,
            is_short=False,
        ),
        Row(
            name="clock set ahead by 1 h",
            fault=faults.clock_jumped,
            victim=CLOCK,
            expected=(ExpectedAlert(conditions.CLOCK_JUMPED, Nodes.VICTIM),),
            well=Well.ALL,
            heals_itself=True,
            is_short=False,
        ),
        Row(name="rolling restart", fault=faults.rolling_restart, well=Well.ALL),
        Row(
            name=f"a third comes and goes for {seconds:.0f} s",
            fault=faults.churn(seconds),
            well=Well.STEADY,
            calm=seconds,
            is_timed=not is_short,
        ),
    )


FULL, SHORT = _rows(is_short=False), tuple(row for row in _rows(is_short=True) if row.is_short)
"""The whole drill, and a short form with fewer rows and a churn too short to judge its p99."""
