"""The repair plan: which action repairs a condition, and when it is due. Pure.

A repair has two tries at most, each with time to take effect; then the alert is escalated. A try is
repeated only while the condition is still present. Only the alert book closes an alert, when its
condition has stayed away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from spegel_py.supervision import conditions
from spegel_py.supervision.alerts import Alert

MAX_TRIES = 2
"""Tries of a repair before its alert is escalated."""

_JITTER = (0.8, 1.2)

ACTOR = "spegel-py"
"""The actor in every repair record: this program. Other actors are users of the control socket."""


class RepairOutcome(StrEnum):
    """How an action ended."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    VERIFIED = "verified"
    """The condition of the alert has stayed away."""
    ESCALATED = "escalated"
    """No try is left."""
    INTERRUPTED = "interrupted"
    """The alert was left open by an earlier life of the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord:
    """The record of one automatic action; `began` is Unix time."""

    alert: str
    action: str
    outcome: RepairOutcome
    began: float
    seconds: float
    detail: str = ""
    actor: str = ACTOR

    def as_record(self) -> dict[str, object]:
        return {
            "alert": self.alert,
            "actor": self.actor,
            "action": self.action,
            "outcome": self.outcome.value,
            "began": round(self.began, 3),
            "seconds": round(self.seconds, 3),
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """The repair of one condition.

    Args:
        act: carries the repair out; it must be harmless when repeated.
        deadline: seconds that the action may take.
        settle: seconds that its effect may then take to show.
        restart_helps: True if a restart of the process helps when the repair did not. `/livez`
            fails then.
    """

    action: str
    act: Callable[[], Awaitable[None]]
    deadline: float
    settle: float
    restart_helps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairActions:
    """The actions that a node offers; each may be repeated at any time.

    Args:
        rejoin: asks all sources for peers, and dials lost peers.
        await_router: returns when the libp2p side, which restarts by itself, is up.
        restart_router: abandons the libp2p side, however it hangs; returns when a new life is up.
        reconnect_containerd: connects to the daemon now; returns when it answers again.
    """

    rejoin: Callable[[], Awaitable[None]]
    await_router: Callable[[], Awaitable[None]]
    restart_router: Callable[[], Awaitable[None]]
    reconnect_containerd: Callable[[], Awaitable[None]] | None = None


def repair_table(actions: RepairActions) -> Mapping[str, Repair]:
    """Return the repair of each condition, by the name of the condition.

    A condition that is missing has no repair here; the table of conditions names its repair.
    """
    rejoin = Repair(action="rejoin", act=actions.rejoin, deadline=15.0, settle=15.0)
    repairs = {
        conditions.ISOLATED.name: rejoin,
        conditions.PARTITIONED.name: rejoin,
        conditions.ROUTER_DOWN.name: Repair(
            action="restart libp2p",
            act=actions.await_router,
            deadline=20.0,
            settle=5.0,
            restart_helps=True,
        ),
        conditions.ROUTER_HUNG.name: Repair(
            action="restart libp2p",
            act=actions.restart_router,
            deadline=30.0,
            settle=15.0,
            restart_helps=True,
        ),
    }
    if actions.reconnect_containerd is not None:
        repairs[conditions.CONTAINERD_AWAY.name] = Repair(
            action="reconnect containerd",
            act=actions.reconnect_containerd,
            deadline=30.0,
            settle=30.0,
        )
    return repairs


@dataclass(frozen=True, slots=True)
class RepairTry:
    """A step of the plan: carry the repair out now. `number` counts the tries from 1."""

    alert: Alert
    repair: Repair
    number: int


@dataclass(frozen=True, slots=True)
class Escalation:
    """A step of the plan: give up, all tries failed."""

    alert: Alert
    repair: Repair


@dataclass(slots=True)
class _Progress:
    tries: int = 0
    is_trying: bool = False
    due: float = 0.0
    is_over: bool = False


class RepairPlan:
    """The progress of the repair of each open alert. `table` has the repairs by condition."""

    def __init__(self, *, table: Mapping[str, Repair], rng: Random) -> None:
        self._table = table
        self._rng = rng
        self._progress: dict[str, _Progress] = {}

    def __repr__(self) -> str:
        return f"<RepairPlan {len(self._progress)} under way>"

    def due(self, persisting: Iterable[Alert], now: float) -> list[RepairTry | Escalation]:
        """Return the steps that are due for open alerts whose condition is still present."""
        steps: list[RepairTry | Escalation] = []
        for alert in persisting:
            if repair := self._table.get(alert.condition):
                progress = self._progress.setdefault(alert.id, _Progress())
                if step := _next(progress, alert, repair, now):
                    steps.append(step)
        return steps

    def ended(self, step: RepairTry, now: float) -> None:
        """Record that a try has ended, well or not: its effect has `settle` seconds to show."""
        if progress := self._progress.get(step.alert.id):
            progress.is_trying = False
            progress.due = now + step.repair.settle * self._rng.uniform(*_JITTER)

    def closed(self, alert: Alert) -> int:
        """Forget a closed alert; return the number of tries."""
        return self._progress.pop(alert.id, _Progress()).tries


def _next(
    progress: _Progress, alert: Alert, repair: Repair, now: float
) -> RepairTry | Escalation | None:
    # Case 1: a try is under way, the alert is escalated, or the last try has time left.
    if progress.is_trying or progress.is_over or now < progress.due:
        return None
    # Case 2: the last try had no effect.
    if progress.tries >= MAX_TRIES:
        progress.is_over = True
        return Escalation(alert, repair)
    # Case 3: a try is left.
    progress.tries, progress.is_trying = progress.tries + 1, True
    return RepairTry(alert, repair, progress.tries)
