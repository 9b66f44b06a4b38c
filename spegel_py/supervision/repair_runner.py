"""Carries out the steps of the repair plan, and records each action."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from random import Random

import structlog

from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.repairs import (
    Escalation,
    Repair,
    RepairOutcome,
    RepairPlan,
    RepairRecord,
    RepairTry,
)

log = structlog.get_logger(__name__)


class RepairRunner:
    """Runs repairs.

    `on_repair` is called with the record of each action, `on_escalated` with each alert for which
    no try is left.
    """

    def __init__(
        self,
        *,
        table: Mapping[str, Repair],
        on_repair: Callable[[RepairRecord], None],
        on_escalated: Callable[[Alert], None],
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = RepairPlan(table=table, rng=rng)
        self._on_repair = on_repair
        self._on_escalated = on_escalated
        self._clock = clock

    def __repr__(self) -> str:
        return f"<RepairRunner {self._plan!r}>"

    def start_due(self, persisting: Iterable[Alert], tasks: asyncio.TaskGroup) -> None:
        """Start the steps that are due for alerts whose condition is present; tries are tasks."""
        for step in self._plan.due(persisting, self._clock()):
            match step:
                case RepairTry():
                    tasks.create_task(self._try(step), name=f"repair {step.alert.id}")
                case Escalation(alert, repair):
                    outcome, detail = RepairOutcome.ESCALATED, "all tries were in vain"
                    self._record(alert, repair.action, outcome, detail)
                    self._on_escalated(alert)

    def record_verified(self, alert: Alert, detail: str) -> None:
        """Record that the condition of a closed alert has stayed away."""
        self._plan.closed(alert)
        record = RepairRecord(
            alert=alert.id,
            action="verify",
            outcome=RepairOutcome.VERIFIED,
            began=alert.opened,
            seconds=alert.recovery or 0.0,
            detail=detail,
        )
        self._on_repair(record)

    async def _try(self, step: RepairTry) -> None:
        began, wall = self._clock(), time.time()
        outcome, detail = RepairOutcome.DONE, "done"
        try:
            async with asyncio.timeout(step.repair.deadline):
                await step.repair.act()
        except TimeoutError:
            outcome = RepairOutcome.TIMED_OUT
            detail = f"not done within {step.repair.deadline:.0f} s"
        except Exception as error:  # noqa: BLE001 - a repair that fails must not end the node
            outcome, detail = RepairOutcome.FAILED, str(error) or repr(error)
        self._plan.ended(step, self._clock())
        self._record(
            step.alert,
            step.repair.action,
            outcome,
            f"try {step.number}: {detail}",
            began=wall,
            seconds=self._clock() - began,
        )

    def _record(
        self,
        alert: Alert,
        action: str,
        outcome: RepairOutcome,
        detail: str,
        *,
        began: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        log.info(
            "repair",
            alert=alert.id,
            condition=alert.condition,
            action=action,
            outcome=outcome.value,
            detail=detail,
            seconds=round(seconds, 3),
        )
        self._on_repair(
            RepairRecord(
                alert=alert.id,
                action=action,
                outcome=outcome,
                began=time.time() if began is None else began,
                seconds=seconds,
                detail=detail,
            )
        )
