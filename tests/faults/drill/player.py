"""Plays rows on the ground, one after the other; between them the cluster comes to rest."""

from __future__ import annotations

import asyncio
import datetime
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from spegel_py.supervision import conditions
from spegel_py.supervision.conditions import Condition
from tests.faults.chaos.pulls import FAILURES
from tests.faults.drill.eyes import Eyes
from tests.faults.drill.ground import Ground, keep_logs, now
from tests.faults.drill.report import (
    Death,
    Failure,
    Measure,
    Outcome,
    Pull,
    Sighting,
    limits,
    most_waits,
)
from tests.faults.drill.rows import Expected, Row, Well
from tests.faults.drill.traffic import pulling
from tests.integration.chronicles import history
from tests.integration.cluster import events
from tests.lab import Node
from tests.processes import until

PATIENCE = 60.0
"""Seconds after which an alert that was not seen, or is not over, counts as never."""
WRITTEN = 10.0
"""Seconds for what a disk did not take to be written down, once it takes it."""

_OF_PEERS = (conditions.PEER_LOST, conditions.PEER_UNHEALTHY, conditions.PEER_PREDICTED)
_OF_ALL = (conditions.ISOLATED, conditions.PARTITIONED)
_HELD_AGAINST = (conditions.PEER_LOST, conditions.PEER_UNHEALTHY, *_OF_ALL)


class Player:
    """Plays one row after the other; `logs` is where the logs of rows that missed an objective are kept."""

    def __init__(self, *, ground: Ground, logs: Path | None) -> None:
        self._ground = ground
        self._logs = logs

    def __repr__(self) -> str:
        return f"<Player on {self._ground}>"

    async def play(self, row: Row) -> Outcome:
        """Play a row; what goes wrong with it is in its outcome."""
        try:
            outcome = await self._play(row)
        except Exception as failure:  # one that cannot be played must not take the others with it
            traceback.print_exc()
            outcome = Outcome(
                row=row.name, error=" ".join(f"{type(failure).__name__}: {failure}".split())[-200:]
            )
        if outcome.missed and self._logs:
            keep_logs(self._ground, self._logs, row.name)
        return outcome

    async def _play(self, row: Row) -> Outcome:
        ground, victim = self._ground, self._ground.nodes[row.victim]
        await ground.rest()
        calm = await self._calm(row.calm)
        scene = _Scene(ground=ground, row=row, victim=victim)
        async with pulling(ground) as pulls:
            await until(lambda: _has_begun(pulls), deadline=PATIENCE)
            deaths = await scene.play()
        return replace(
            scene.outcome,
            wrong=tuple(scene.unfounded(*_HELD_AGAINST)),
            foretold=tuple(scene.unfounded(conditions.PEER_PREDICTED)),
            pulls=tuple(pulls),
            calm=calm,
            waits=most_waits(pulls, self._failures(pulls), deaths) if deaths else None,
        )

    async def _calm(self, seconds: float) -> tuple[Pull, ...]:
        if not seconds:
            return ()
        async with pulling(self._ground) as pulls:
            await asyncio.sleep(seconds)
        return tuple(pulls)

    def _failures(self, pulls: Sequence[Pull]) -> list[Failure]:
        begin = min(pull.began for pull in pulls)
        return [
            failure
            for node in self._ground.pullers
            for event in events(node, "peer failed")
            if event["outcome"] in FAILURES
            and (failure := _failure(node, str(event["addr"]), str(event["timestamp"]))).at >= begin
        ]


class _Scene:
    """One row being played."""

    def __init__(self, *, ground: Ground, row: Row, victim: Node) -> None:
        self._ground = ground
        self._row = row
        self._victim = victim
        self._before = ground.written()
        self._eyes = Eyes(ground=ground, victim=victim, known=self._before)
        self._expected = [
            (one, node) for one in row.expected for node in one.who.of(ground, victim)
        ]
        self._others = [node for node in ground.nodes if node is not victim]
        self.outcome = Outcome(row=row.name, is_timed=row.is_timed)

    async def play(self) -> Sequence[Death]:
        """Break, watch, mend, and watch again; returns who died meanwhile."""
        row = self._row
        watched = {node for _, node in self._expected} | (set(self._others) if row.known else set())
        async with self._eyes.open(watched):
            began = now()
            async with row.fault(self._ground, self._victim) as deaths:
                await self._wait(self._is_seen)
                known = self._known(began)
                if row.heals_itself:
                    await self._wait(self._is_over)
                mended = began if row.heals_itself else now()
            lookup = await self._lookup(mended)
            await self._wait(self._is_over)
        sightings = [self._sighting(one, node, began, mended) for one, node in self._expected]
        await self._wait(lambda: all(map(self._is_on_record, self._expected)), deadline=WRITTEN)
        self.outcome = replace(
            self.outcome,
            sightings=tuple(
                replace(each, is_on_record=self._is_on_record(at))
                for each, at in zip(sightings, self._expected, strict=True)
            ),
            known=known,
            lookup=lookup,
        )
        return deaths

    def unfounded(self, *of: Condition) -> list[str]:
        """Return the alerts of these conditions about peers, or the cluster, that were well for who raised them."""
        return [
            f"{alert.condition} at {node.address}: {alert.detail}"
            for group in self._row.well.groups(self._ground, self._victim)
            for node in group
            for alert in history(node).alerts
            if alert.id not in self._before[node] and alert.condition in _names(of)
            if self._is_unfounded(alert.condition, alert.subject, group)
        ]

    def _is_unfounded(self, condition: str, subject: str, group: Sequence[Node]) -> bool:
        if condition == conditions.PARTITIONED.name:
            return self._row.well in (Well.OTHERS, Well.ALL)
        return condition in _names(_OF_ALL) or self._ground.node(subject) in group

    async def _wait(self, condition: Callable[[], bool], *, deadline: float = PATIENCE) -> None:
        async def holds() -> bool:
            return condition()

        with suppress(TimeoutError):  # what did not happen is in the outcome
            await until(holds, deadline=deadline, pause=0.05)

    def _is_seen(self) -> bool:
        return all(map(self._opened, self._expected)) and (
            self._row.known is None or self._known_at() is not None
        )

    def _is_over(self) -> bool:
        alerts = [
            (node, opened[1])
            for one, node in self._expected
            if (opened := self._opened((one, node)))
        ]
        return all(self._eyes.closed(node, identity) is not None for node, identity in alerts)

    def _opened(self, at: tuple[Expected, Node]) -> tuple[float, str] | None:
        expected, node = at
        subject = self._ground.id(self._victim) if expected.condition in _OF_PEERS else None
        return self._eyes.opened(node, expected.condition.name, subject)

    def _known_at(self) -> float | None:
        times = [at for node in self._others if (at := self._eyes.missed(node)) is not None]
        return max(times) if len(times) == len(self._others) else None

    def _known(self, began: float) -> Measure | None:
        if self._row.known is None:
            return None
        at = self._known_at()
        return Measure(seconds=None if at is None else at - began, limit=self._row.known)

    async def _lookup(self, mended: float) -> Measure | None:
        if self._row.lookup is None:
            return None
        seconds = None
        with suppress(TimeoutError):
            await self._ground.all_found()
            seconds = now() - mended
        # what heals itself has its time from the fault to the last alert besides
        return Measure(
            seconds=seconds, limit=self._row.lookup if not self._row.heals_itself else PATIENCE
        )

    def _sighting(self, expected: Expected, node: Node, began: float, mended: float) -> Sighting:
        opened = self._opened((expected, node))
        closed = self._eyes.closed(node, opened[1]) if opened else None
        seen_limit, over_limit = limits(expected.condition.tier, expected.limit)
        return Sighting(
            node=node.address,
            condition=expected.condition.name,
            tier=expected.condition.tier.label,
            seen=opened[0] - began if opened else None,
            seen_limit=seen_limit,
            over=None if closed is None else max(0.0, closed - mended),
            over_limit=over_limit,
        )

    def _is_on_record(self, at: tuple[Expected, Node]) -> bool:
        """Say whether the alert is written down as closed, and at last what was done is verified."""
        if (opened := self._opened(at)) is None:
            return False
        written = history(at[1])
        is_closed = any(alert.id == opened[1] and not alert.is_open for alert in written.alerts)
        done = [action["outcome"] for action in written.actions if action["alert"] == opened[1]]
        return is_closed and done[-1:] == ["verified"]


async def _has_begun(pulls: Sequence[Pull]) -> bool:
    return bool(pulls)


def _names(those: Sequence[Condition]) -> set[str]:
    return {one.name for one in those}


def _failure(node: Node, address: str, timestamp: str) -> Failure:
    at = datetime.datetime.fromisoformat(timestamp).timestamp()
    return Failure(node=node.address, peer=address.rpartition(":")[0], at=at)
