"""Two tries at most, each with time to show, then escalation; every action is written down."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import pytest

from spegel_py.errors import RouterUnavailable
from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.audit import Action
from spegel_py.supervision.conditions import CONDITIONS, Tier
from spegel_py.supervision.medic import Medic
from spegel_py.supervision.repairs import Courses, Escalate, Hands, Repair, Try, table

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
    """A condition that stays is tried twice, with its time in between, escalated once, and then left alone."""
    courses = Courses(table={"isolated": repair()}, rng=Random(1))
    steps: list[tuple[float, str]] = []
    for tenth in range(1000):
        now = tenth / 10
        for step in courses.plan([ALERT], now):
            steps.append((now, type(step).__name__))
            if isinstance(step, Try):
                courses.ended(step, now)
    assert [kind for _, kind in steps] == ["Try", "Try", "Escalate"]
    assert all(8.0 <= later[0] - earlier[0] <= 12.1 for earlier, later in pairwise(steps))


def test_a_try_under_way_is_not_repeated() -> None:
    """As long as it has not ended nothing else is begun."""
    courses = Courses(table={"isolated": repair()}, rng=Random(1))
    assert [step.number for step in courses.plan([ALERT], 0.0) if isinstance(step, Try)] == [1]
    assert courses.plan([ALERT], 1000.0) == []


def test_a_condition_that_is_gone_is_not_tried_again() -> None:
    """The second try comes only while the condition is seen, and its number goes on."""
    courses = Courses(table={"isolated": repair()}, rng=Random(1))
    [first] = courses.plan([ALERT], 0.0)
    assert isinstance(first, Try)
    courses.ended(first, 0.0)
    assert courses.plan([], 50.0) == []
    [second] = courses.plan([ALERT], 51.0)
    assert isinstance(second, Try)
    assert second.number == 2


def test_a_closed_alert_is_forgotten() -> None:
    """The next alert of the same condition starts with its first try."""
    courses = Courses(table={"isolated": repair()}, rng=Random(1))
    courses.plan([ALERT], 0.0)
    courses.closed(ALERT)
    assert [step.number for step in courses.plan([ALERT], 1.0) if isinstance(step, Try)] == [1]
    assert courses.plan([], 0.0) == []


def test_what_cannot_be_repaired_is_not_tried() -> None:
    """A condition without a repair plans nothing."""
    courses = Courses(table={}, rng=Random(1))
    assert courses.plan([ALERT], 0.0) == []


def test_every_repair_belongs_to_a_condition() -> None:
    """The table names real conditions; containerd is in it only where there is one."""
    hands = Hands(rejoin=nothing, await_router=nothing, restart_router=nothing)
    assert table(hands).keys() < CONDITIONS.keys()
    assert "containerd-away" not in table(hands)
    whole = Hands(
        rejoin=nothing, await_router=nothing, restart_router=nothing, reconnect_containerd=nothing
    )
    assert {name for name, one in table(whole).items() if one.restart_helps} == {
        "router-down",
        "router-hung",
    }
    assert "containerd-away" in table(whole)


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
    """With the alert, who, what, how it ended and how long it took; a repair that hangs is cut off."""
    actions: list[Action] = []
    medic = Medic(
        table={"isolated": repair(act)},
        acted=actions.append,
        escalated=lambda _: None,
        rng=Random(1),
    )
    async with asyncio.TaskGroup() as tasks:
        medic.attend([ALERT], tasks)
    [action] = actions
    assert (action.alert, action.actor, action.action) == (ALERT.id, "spegel-py", "mend")
    assert (action.outcome, action.detail) == (outcome, detail)
    assert 0 <= action.seconds < 5


async def test_giving_up_and_the_end_are_written_too() -> None:
    """Escalation and the verification that closes an alert are records of their own."""
    actions: list[Action] = []
    escalated: list[Alert] = []
    clock = [0.0]
    medic = Medic(
        table={"isolated": repair()},
        acted=actions.append,
        escalated=escalated.append,
        rng=Random(1),
        clock=lambda: clock[0],
    )
    for clock[0] in (0.0, 20.0, 40.0, 60.0):
        async with asyncio.TaskGroup() as tasks:
            medic.attend([ALERT], tasks)
    medic.discharge(ALERT, "2 peers connected")
    assert [(each.action, each.outcome) for each in actions] == [
        ("mend", "done"),
        ("mend", "done"),
        ("mend", "escalated"),
        ("verify", "verified"),
    ]
    assert escalated == [ALERT]


def test_escalation_is_a_value() -> None:
    """It names the alert and what was tried."""
    courses = Courses(table={"isolated": repair()}, rng=Random(1))
    for now in (0.0, 20.0):
        [step] = courses.plan([ALERT], now)
        assert isinstance(step, Try)
        courses.ended(step, now)
    [last] = courses.plan([ALERT], 40.0)
    assert isinstance(last, Escalate)
    assert (last.alert, last.repair.action) == (ALERT, "mend")
