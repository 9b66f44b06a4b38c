"""What is done about a condition, and when: two tries at most, each given time to show, then it is escalated. Pure.

A try is repeated only while the condition is still seen; an alert is closed by the book alone, when it has stayed away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from spegel_py.supervision import conditions
from spegel_py.supervision.alerts import Alert

MAX_TRIES = 2
"""Tries before a repair is given up."""
_JITTER = (0.8, 1.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """How one condition is repaired: `act` does it, and must be harmless when repeated.

    `deadline` is for how many seconds it may take, `settle` how long its effect may then take to show. `restart_helps`:
    when it was in vain, the whole process should be started again, and `/livez` says so.
    """

    action: str
    act: Callable[[], Awaitable[None]]
    deadline: float
    settle: float
    restart_helps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What can be done on a node; each may be done again at any time.

    `rejoin`: ask all sources for peers, and look for lost ones. `await_router`: return when the libp2p side, which
    starts again by itself, is up. `restart_router`: leave the libp2p side behind, however it hangs, and
    return when another one is up. `reconnect_containerd`: try the daemon now, and return when it is back.
    """

    rejoin: Callable[[], Awaitable[None]]
    await_router: Callable[[], Awaitable[None]]
    restart_router: Callable[[], Awaitable[None]]
    reconnect_containerd: Callable[[], Awaitable[None]] | None = None


def table(hands: Hands) -> Mapping[str, Repair]:
    """Return what is done about each condition, by its name. About those that are not in it nothing can be done but to
    go on and say so: the disk is the operator's, the clock is nobody's, and peers have repairs of their own."""
    rejoin = Repair(action="rejoin", act=hands.rejoin, deadline=15.0, settle=15.0)
    repairs = {
        conditions.ISOLATED.name: rejoin,
        conditions.PARTITIONED.name: rejoin,
        conditions.ROUTER_DOWN.name: Repair(
            action="restart libp2p",
            act=hands.await_router,
            deadline=20.0,
            settle=5.0,
            restart_helps=True,
        ),
        conditions.ROUTER_HUNG.name: Repair(
            action="restart libp2p",
            act=hands.restart_router,
            deadline=30.0,
            settle=15.0,
            restart_helps=True,
        ),
    }
    if hands.reconnect_containerd is not None:
        repairs[conditions.CONTAINERD_AWAY.name] = Repair(
            action="reconnect containerd",
            act=hands.reconnect_containerd,
            deadline=30.0,
            settle=30.0,
        )
    return repairs


@dataclass(frozen=True, slots=True)
class Try:
    """Do it now; the number of the try, from 1."""

    alert: Alert
    repair: Repair
    number: int


@dataclass(frozen=True, slots=True)
class Escalate:
    """Give up: the tries were in vain."""

    alert: Alert
    repair: Repair


@dataclass(slots=True)
class _Course:
    tries: int = 0
    is_trying: bool = False
    due: float = 0.0
    is_over: bool = False


class Courses:
    """How far the repair of each open alert has come. `table` has the repairs by the names of conditions."""

    def __init__(self, *, table: Mapping[str, Repair], rng: Random) -> None:
        self._table = table
        self._rng = rng
        self._courses: dict[str, _Course] = {}

    def __repr__(self) -> str:
        return f"<Courses {len(self._courses)} under way>"

    def plan(self, persisting: Iterable[Alert], now: float) -> list[Try | Escalate]:
        """Return what is to be done now about the open alerts whose condition is still seen."""
        steps: list[Try | Escalate] = []
        for alert in persisting:
            if repair := self._table.get(alert.condition):
                course = self._courses.setdefault(alert.id, _Course())
                if step := _next(course, alert, repair, now):
                    steps.append(step)
        return steps

    def ended(self, step: Try, now: float) -> None:
        """Note that a try has ended, well or not: its effect has `settle` seconds to show."""
        if course := self._courses.get(step.alert.id):
            course.is_trying = False
            course.due = now + step.repair.settle * self._rng.uniform(*_JITTER)

    def closed(self, alert: Alert) -> int:
        """Forget a closed alert; returns how many tries there were."""
        return self._courses.pop(alert.id, _Course()).tries


def _next(course: _Course, alert: Alert, repair: Repair, now: float) -> Try | Escalate | None:
    if course.is_trying or course.is_over or now < course.due:
        return None
    if course.tries >= MAX_TRIES:
        course.is_over = True
        return Escalate(alert, repair)
    course.tries, course.is_trying = course.tries + 1, True
    return Try(alert, repair, course.tries)
