"""The rows of the drill: what is broken, who is to see it as what and by when, and who is well all the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from spegel_py.supervision import conditions
from spegel_py.supervision.conditions import Condition
from tests.faults.drill import faults
from tests.faults.drill.faults import Fault, halves
from tests.faults.drill.ground import CLOCK, OPERATED, SMALL_DISK, Ground
from tests.lab import Node

DEAD, SILENT, HEALED = 2.0, 10.0, 15.0
"""Seconds until everybody knows that a node was killed; that it froze, or is a black hole; and until all find all."""
ACTIVE = 30.0
"""Kraken's bound, seconds, for what only the active check can find."""


class Who(Enum):
    """Some of the nodes, as seen from a fault."""

    VICTIM = auto()
    OTHERS = auto()
    ALL = auto()
    PULLERS = auto()
    BYSTANDERS = auto()  # neither pullers nor the victim

    def of(self, ground: Ground, victim: Node) -> list[Node]:
        """Return these nodes."""
        match self:
            case Who.VICTIM:
                return [victim]
            case Who.ALL:
                return list(ground.nodes)
            case Who.PULLERS:
                return list(ground.pullers)
            case Who.OTHERS:
                return _without(ground.nodes, [victim])
            case Who.BYSTANDERS:
                return _without(ground.nodes, [victim, *ground.pullers])


class Well(Enum):
    """Which nodes are well and reach each other all the time, so that to suspect one another is wrong."""

    OTHERS = auto()  # all but the victim
    ALL = auto()
    HALVES = auto()
    STEADY = auto()  # all but the last two

    def groups(self, ground: Ground, victim: Node) -> list[list[Node]]:
        """Return the groups of nodes that are well for each other."""
        match self:
            case Well.OTHERS:
                return [_without(ground.nodes, [victim])]
            case Well.ALL:
                return [list(ground.nodes)]
            case Well.HALVES:
                return list(halves(ground))
            case Well.STEADY:
                return [ground.nodes[:-2]]


def _without(nodes: Sequence[Node], those: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node not in those]


@dataclass(frozen=True, slots=True)
class Expected:
    """An alert that these nodes are to raise, within `limit` seconds or else what its tier says."""

    condition: Condition
    who: Who
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault."""

    name: str
    fault: Fault
    victim: int = OPERATED
    """The number of the node it strikes, from 0."""
    expected: tuple[Expected, ...] = ()
    known: float | None = None
    """Seconds until nobody offers the victim any more."""
    lookup: float | None = HEALED
    """Seconds from the mending until all find all; None if that is not looked at."""
    well: Well = Well.OTHERS
    heals_itself: bool = False
    """Whether it is over with nothing done: then that is measured from the fault."""
    calm: float = 0.0
    """Seconds of undisturbed pulls before, to compare with."""
    is_timed: bool = False
    is_short: bool = True


def _rows(*, is_short: bool) -> tuple[Row, ...]:
    seconds = 30.0 if is_short else 120.0
    lost = Expected(conditions.PEER_LOST, Who.OTHERS)
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
            expected=(lost, Expected(conditions.ISOLATED, Who.VICTIM)),
            known=SILENT,
            is_short=False,
        ),
        Row(
            name="partition in halves",
            fault=faults.in_halves,
            expected=(Expected(conditions.PARTITIONED, Who.ALL),),
            well=Well.HALVES,
        ),
        Row(
            name="registry port a black hole",
            fault=faults.black_hole,
            victim=0,
            expected=(
                Expected(conditions.PEER_UNHEALTHY, Who.PULLERS, SILENT),
                Expected(conditions.PEER_UNHEALTHY, Who.BYSTANDERS, ACTIVE),
            ),
        ),
        Row(
            name="containerd killed",
            fault=faults.containerd_killed,
            victim=CLOCK,
            expected=(Expected(conditions.CONTAINERD_AWAY, Who.VICTIM),),
            well=Well.ALL,
        ),
        Row(
            name="disk full",
            fault=faults.disk_full,
            victim=SMALL_DISK,
            expected=(Expected(conditions.DISK_FULL, Who.VICTIM),),
            well=Well.ALL,
        ),
        Row(
            name="disk read-only",
            fault=faults.disk_read_only,
            victim=SMALL_DISK,
            expected=(Expected(conditions.DATA_DIR_READ_ONLY, Who.VICTIM),),
            well=Well.ALL,
            is_short=False,
        ),
        Row(
            name="libp2p side crashed",
            fault=faults.libp2p_crashed,
            expected=(Expected(conditions.ROUTER_DOWN, Who.VICTIM),),
            heals_itself=True,
        ),
        Row(
            name="libp2p side hung",
            fault=faults.libp2p_hung,
            expected=(Expected(conditions.ROUTER_HUNG, Who.VICTIM), lost),
            known=SILENT,
            heals_itself=True,
            is_short=False,
        ),
        Row(
            name="clock set ahead by 1 h",
            fault=faults.clock_jumped,
            victim=CLOCK,
            expected=(Expected(conditions.CLOCK_JUMPED, Who.VICTIM),),
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
"""The whole drill, and a short form: fewer rows, and too short a churn to judge its p99."""
