"""Carries out what the courses of repair plan, and writes each action down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from random import Random

import structlog

from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.audit import Action, Outcome
from spegel_py.supervision.repairs import Courses, Escalate, Repair, Try

log = structlog.get_logger(__name__)


class Medic:
    """Acts on alerts. `acted` hears of each action, `escalated` of each alert about which nothing more is done."""

    def __init__(
        self,
        *,
        table: Mapping[str, Repair],
        acted: Callable[[Action], None],
        escalated: Callable[[Alert], None],
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._courses = Courses(table=table, rng=rng)
        self._acted = acted
        self._escalated = escalated
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Medic {self._courses!r}>"

    def attend(self, persisting: Iterable[Alert], tasks: asyncio.TaskGroup) -> None:
        """Begin what is due about alerts whose condition is still seen; the tries run as tasks."""
        for step in self._courses.plan(persisting, self._clock()):
            match step:
                case Try():
                    tasks.create_task(self._try(step), name=f"repair {step.alert.id}")
                case Escalate(alert, repair):
                    self._write(alert, repair.action, "escalated", "all tries were in vain")
                    self._escalated(alert)

    def discharge(self, alert: Alert, detail: str) -> None:
        """Write down that a closed alert's condition has stayed away."""
        self._courses.closed(alert)
        seconds = alert.recovery or 0.0
        action = Action(
            alert=alert.id,
            action="verify",
            outcome="verified",
            began=alert.opened,
            seconds=seconds,
            detail=detail,
        )
        self._acted(action)

    async def _try(self, step: Try) -> None:
        began, wall = self._clock(), time.time()
        outcome, detail = "done", "done"
        try:
            async with asyncio.timeout(step.repair.deadline):
                await step.repair.act()
        except TimeoutError:
            outcome, detail = "timed-out", f"not done within {step.repair.deadline:.0f} s"
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with a repair, the node must go on
            outcome, detail = "failed", str(error) or repr(error)
        self._courses.ended(step, self._clock())
        self._write(
            step.alert,
            step.repair.action,
            outcome,  # type: ignore[arg-type]  # one of three of them
            f"try {step.number}: {detail}",
            began=wall,
            seconds=self._clock() - began,
        )

    def _write(
        self,
        alert: Alert,
        action: str,
        outcome: Outcome,
        detail: str,
        *,
        began: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        at = time.time() if began is None else began
        log.info(
            "repair",
            alert=alert.id,
            condition=alert.condition,
            action=action,
            outcome=outcome,
            detail=detail,
            seconds=round(seconds, 3),
        )
        self._acted(
            Action(
                alert=alert.id,
                action=action,
                outcome=outcome,
                began=at,
                seconds=seconds,
                detail=detail,
            )
        )
