"""Two tries at most, each with time to show, then escalation; every action is written down."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import pytest

from spegel_py.errors import RouterUnavailable
from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.conditions import CONDITIONS, Tier
from spegel_py.supervision.repair_runner import RepairRunner
from spegel_py.supervision.repairs import (
    Escalation,
    Repair,
    RepairActions,
    RepairPlan,
    RepairRecord,
    RepairTry,
    repair_table,
)

ALERT = Alert(
    id="ALERT-20251125-001",
    tier=Tier.P1,
    condition="isolated",
    subject="",
    source="test",
    detail="",
    opened=100.0,
    detection=1.0,
)


async def nothing() -> None:
    return None


def repair(act: object = nothing) -> Repair:
    return Repair(action="mend", act=act, deadline=0.05, settle=10.0)  # type: ignore[arg-type]


def test_there_are_two_tries_and_then_no_more() -> None:
    """A condition that stays is tried twice, with its time in between, escalated once, and then
    left alone.
    """
    plan = RepairPlan(table={"isolated": repair()}, rng=Random(1))
    steps: list[tuple[float, str]] = []
    for tenth in range(1000):
        now = tenth / 10
        for step in plan.due([ALERT], now):
            steps.append((now, type(step).__name__))
            if isinstance(step, RepairTry):
                plan.ended(step, now)
    assert [kind for _, kind in steps] == ["RepairTry", "RepairTry", "Escalation"]
    assert all(8.0 <= later[0] - earlier[0] <= 12.1 for earlier, later in pairwise(steps))


def test_a_try_under_way_is_not_repeated() -> None:
    """As long as it has not ended nothing else is begun."""
    plan = RepairPlan(table={"isolated": repair()}, rng=Random(1))
    assert [step.number for step in plan.due([ALERT], 0.0) if isinstance(step, RepairTry)] == [1]
    assert plan.due([ALERT], 1000.0) == []


def test_a_condition_that_is_gone_is_not_tried_again() -> None:
    """The second try comes only while the condition is seen, and its number goes on."""
    plan = RepairPlan(table={"isolated": repair()}, rng=Random(1))
    [first] = plan.due([ALERT], 0.0)
    assert isinstance(first, RepairTry)
    plan.ended(first, 0.0)
    assert plan.due([], 50.0) == []
    [second] = plan.due([ALERT], 51.0)
    assert isinstance(second, RepairTry)
    assert second.number == 2


def test_a_closed_alert_is_forgotten() -> None:
    """The next alert of the same condition starts with its first try."""
    plan = RepairPlan(table={"isolated": repair()}, rng=Random(1))
    plan.due([ALERT], 0.0)
    plan.closed(ALERT)
    assert [step.number for step in plan.due([ALERT], 1.0) if isinstance(step, RepairTry)] == [1]
    assert plan.due([], 0.0) == []


def test_what_cannot_be_repaired_is_not_tried() -> None:
    """A condition without a repair plans nothing."""
    plan = RepairPlan(table={}, rng=Random(1))
    assert plan.due([ALERT], 0.0) == []


def test_every_repair_belongs_to_a_condition() -> None:
    """The table names real conditions; containerd is in it only where there is one."""
    actions = RepairActions(rejoin=nothing, await_router=nothing, restart_router=nothing)
    assert repair_table(actions).keys() < CONDITIONS.keys()
    assert "containerd-away" not in repair_table(actions)
    whole = RepairActions(
        rejoin=nothing, await_router=nothing, restart_router=nothing, reconnect_containerd=nothing
    )
    assert {name for name, one in repair_table(whole).items() if one.restart_helps} == {
        "router-down",
        "router-hung",
    }
    assert "containerd-away" in repair_table(whole)


async def fails() -> None:
    raise RouterUnavailable("no way")


@pytest.mark.parametrize(
    ("act", "outcome", "detail"),
    [
        (nothing, "done", "try 1: done"),
        (fails, "failed", "try 1: no way"),
        (asyncio.Event().wait, "timed-out", "try 1: not done within 0 s"),
    ],
    ids=["done", "failed", "hangs"],
)
async def test_every_action_is_written_down(act: object, outcome: str, detail: str) -> None:
    """With the alert, who, what, how it ended and how long it took; a repair that hangs is cut
    off.
    """
    actions: list[RepairRecord] = []
    runner = RepairRunner(
        table={"isolated": repair(act)},
        on_repair=actions.append,
        on_escalated=lambda _: None,
        rng=Random(1),
    )
    async with asyncio.TaskGroup() as tasks:
        runner.start_due([ALERT], tasks)
    [action] = actions
    assert (action.alert, action.actor, action.action) == (ALERT.id, "spegel-py", "mend")
    assert (action.outcome, action.detail) == (outcome, detail)
    assert 0 <= action.seconds < 5


async def test_giving_up_and_the_end_are_written_too() -> None:
    """Escalation and the verification that closes an alert are records of their own."""
    actions: list[RepairRecord] = []
    on_escalated: list[Alert] = []
    clock = [0.0]
    runner = RepairRunner(
        table={"isolated": repair()},
        on_repair=actions.append,
        on_escalated=on_escalated.append,
        rng=Random(1),
        clock=lambda: clock[0],
    )
    for clock[0] in (0.0, 20.0, 40.0, 60.0):
        async with asyncio.TaskGroup() as tasks:
            runner.start_due([ALERT], tasks)
    runner.record_verified(ALERT, "2 peers connected")
    assert [(each.action, each.outcome) for each in actions] == [
        ("mend", "done"),
        ("mend", "done"),
        ("mend", "escalated"),
        ("verify", "verified"),
    ]
    assert on_escalated == [ALERT]


def test_escalation_is_a_value() -> None:
    """It names the alert and what was tried."""
    plan = RepairPlan(table={"isolated": repair()}, rng=Random(1))
    for now in (0.0, 20.0):
        [step] = plan.due([ALERT], now)
        assert isinstance(step, RepairTry)
        plan.ended(step, now)
    [last] = plan.due([ALERT], 40.0)
    assert isinstance(last, Escalation)
    assert (last.alert, last.repair.action) == (ALERT, "mend")
