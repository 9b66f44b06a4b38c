"""Plays rows of the drill, one after the other; in between the cluster comes to rest."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from spegel_py.supervision import conditions
from spegel_py.supervision.conditions import Condition
from tests.faults.drill.cluster import DrillCluster
from tests.faults.drill.polling import StatePoller
from tests.faults.drill.report import (
    Death,
    DrillOutcome,
    Failure,
    Measure,
    Sighting,
    limits,
    most_waits,
)
from tests.faults.drill.rows import HEALED, ExpectedAlert, Row, Well
from tests.faults.harness import recorded
from tests.faults.pulls import FAILURES, Attempt, attempt
from tests.integration.chronicles import history
from tests.integration.cluster import events
from tests.support.lab import Node
from tests.support.processes import until

NEVER = 60.0
"""Seconds after which an alert that has not opened or closed counts as never doing so."""
PAUSE = 0.2
"""Seconds between two pulls of one node."""
WRITTEN = 10.0
"""Seconds for a history to be written once its disk takes writes again."""

_OF_PEERS = (conditions.PEER_LOST, conditions.PEER_UNHEALTHY, conditions.PEER_PREDICTED)
_OF_CLUSTER = (conditions.ISOLATED, conditions.PARTITIONED)
_SUSPICIONS = (conditions.PEER_LOST, conditions.PEER_UNHEALTHY, *_OF_CLUSTER)


class DrillPlayer:
    """Plays one row after the other; `logs` is the folder for logs of rows that went wrong."""

    def __init__(self, *, cluster: DrillCluster, logs: Path | None) -> None:
        self._cluster = cluster
        self._logs = logs

    async def play(self, row: Row) -> DrillOutcome:
        """Play a row; a failure to play it is recorded in its outcome."""
        errors: list[str] = []
        outcome = DrillOutcome(row=row.name)
        with recorded(errors):
            outcome = await self._play(row)
        outcome = replace(outcome, error="".join(errors))
        if outcome.missed and self._logs:
            self._cluster.keep_logs(self._logs, row.name)
        return outcome

    async def _play(self, row: Row) -> DrillOutcome:
        cluster, victim = self._cluster, self._cluster.nodes[row.victim]
        await cluster.rest()
        calm = await self._undisturbed(row.calm)
        observed = _ObservedRow(cluster=cluster, row=row, victim=victim)
        async with _pulling(cluster) as pulls:
            await until(lambda: _has_begun(pulls), deadline=NEVER)
            deaths = await observed.play()
        return replace(
            observed.outcome,
            wrong=tuple(observed.unfounded(*_SUSPICIONS)),
            foretold=tuple(observed.unfounded(conditions.PEER_PREDICTED)),
            pulls=tuple(pulls),
            calm=calm,
            waits=most_waits(pulls, self._failures(pulls), deaths) if deaths else None,
        )

    async def _undisturbed(self, seconds: float) -> tuple[Attempt, ...]:
        if not seconds:
            return ()
        async with _pulling(self._cluster) as pulls:
            await asyncio.sleep(seconds)
        return tuple(pulls)

    def _failures(self, pulls: Sequence[Attempt]) -> list[Failure]:
        """Return the failed requests to peers since the first pull, from the pullers' logs."""
        begin = min(pull.began for pull in pulls)
        return [
            failure
            for node in self._cluster.pullers
            for event in events(node, "peer failed")
            if event["outcome"] in FAILURES
            and (failure := _failure(node, str(event["addr"]), str(event["timestamp"]))).at >= begin
        ]


class _ObservedRow:
    """One row while it is played, with the alerts of all nodes."""

    def __init__(self, *, cluster: DrillCluster, row: Row, victim: Node) -> None:
        self._cluster = cluster
        self._row = row
        self._victim = victim
        self._before = cluster.recorded_alerts()
        self._poller = StatePoller(cluster=cluster, victim=victim, known=self._before)
        self._expected = [
            (alert, node) for alert in row.expected for node in alert.nodes.of(cluster, victim)
        ]
        self._others = [node for node in cluster.nodes if node is not victim]
        self.outcome = DrillOutcome(row=row.name, is_timed=row.is_timed)

    async def play(self) -> Sequence[Death]:
        """Break, wait for the alerts, mend, and wait for their end; return the deaths meanwhile."""
        row = self._row
        polled = {node for _, node in self._expected} | (set(self._others) if row.known else set())
        async with self._poller.polling(polled):
            began = time.monotonic()
            async with row.fault(self._cluster, self._victim) as deaths:
                await self._wait(self._is_seen)
                known = self._known(began)
                if row.heals_itself:
                    await self._wait(self._is_over)
                mended = began if row.heals_itself else time.monotonic()
            lookup = await self._lookup(mended)
            await self._wait(self._is_over)
        sightings = [self._sighting(alert, node, began, mended) for alert, node in self._expected]
        await self._wait(lambda: all(map(self._is_on_record, self._expected)), deadline=WRITTEN)
        self.outcome = replace(
            self.outcome,
            sightings=tuple(
                replace(sighting, is_on_record=self._is_on_record(expected))
                for sighting, expected in zip(sightings, self._expected, strict=True)
            ),
            known=known,
            lookup=lookup,
        )
        return deaths

    def unfounded(self, *of: Condition) -> list[str]:
        """Return the alerts of these conditions whose subject was well for the reporting node."""
        return [
            f"{alert.condition} at {node.address}: {alert.detail}"
            for group in self._row.well.groups(self._cluster, self._victim)
            for node in group
            for alert in history(node).alerts
            if alert.id not in self._before[node] and alert.condition in _names(of)
            if self._is_unfounded(alert.condition, alert.subject, group)
        ]

    def _is_unfounded(self, condition: str, subject: str, group: Sequence[Node]) -> bool:
        if condition == conditions.PARTITIONED.name:
            return self._row.well in (Well.OTHERS, Well.ALL)
        return condition in _names(_OF_CLUSTER) or self._cluster.node(subject) in group

    async def _wait(self, condition: Callable[[], bool], *, deadline: float = NEVER) -> None:
        async def holds() -> bool:
            return condition()

        with suppress(TimeoutError):  # the outcome shows that it did not happen
            await until(holds, deadline=deadline, pause=0.05)

    def _is_seen(self) -> bool:
        return all(map(self._opened, self._expected)) and (
            self._row.known is None or self._known_at() is not None
        )

    def _is_over(self) -> bool:
        alerts = [
            (node, opened[1])
            for alert, node in self._expected
            if (opened := self._opened((alert, node)))
        ]
        return all(self._poller.closed(node, identity) is not None for node, identity in alerts)

    def _opened(self, expected: tuple[ExpectedAlert, Node]) -> tuple[float, str] | None:
        alert, node = expected
        subject = self._cluster.id(self._victim) if alert.condition in _OF_PEERS else None
        return self._poller.opened(node, alert.condition.name, subject)

    def _known_at(self) -> float | None:
        times = [at for node in self._others if (at := self._poller.missed(node)) is not None]
        return max(times) if len(times) == len(self._others) else None

    def _known(self, began: float) -> Measure | None:
        if self._row.known is None:
            return None
        at = self._known_at()
        return Measure(seconds=None if at is None else at - began, limit=self._row.known)

    async def _lookup(self, mended: float) -> Measure:
        seconds = None
        with suppress(TimeoutError):
            await self._cluster.all_found()
            seconds = time.monotonic() - mended
        # a row that heals itself is measured from the fault, past its last alert
        limit = NEVER if self._row.heals_itself else HEALED
        return Measure(seconds=seconds, limit=limit)

    def _sighting(
        self, expected: ExpectedAlert, node: Node, began: float, mended: float
    ) -> Sighting:
        opened = self._opened((expected, node))
        closed = self._poller.closed(node, opened[1]) if opened else None
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

    def _is_on_record(self, expected: tuple[ExpectedAlert, Node]) -> bool:
        """Return True if the history has the closed alert, and its last action is verified."""
        if (opened := self._opened(expected)) is None:
            return False
        written = history(expected[1])
        is_closed = any(alert.id == opened[1] and not alert.is_open for alert in written.alerts)
        done = [action["outcome"] for action in written.repairs if action["alert"] == opened[1]]
        return is_closed and done[-1:] == ["verified"]


@asynccontextmanager
async def _pulling(cluster: DrillCluster) -> AsyncIterator[list[Attempt]]:
    """Pull on all pullers, and yield the list to which each finished pull is added."""
    pulls: list[Attempt] = []
    over = asyncio.Event()

    async def keep_pulling(node: Node) -> None:
        while not over.is_set():
            pulls.append(await attempt(node, cluster.reference))
            # containerd collects its garbage before it answers
            await node.cri.remove(cluster.reference)
            await asyncio.sleep(PAUSE)

    tasks = [asyncio.create_task(keep_pulling(node)) for node in cluster.pullers]
    try:
        yield pulls
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def _has_begun(pulls: Sequence[Attempt]) -> bool:
    return bool(pulls)


def _names(of: Sequence[Condition]) -> set[str]:
    return {condition.name for condition in of}


def _failure(node: Node, address: str, timestamp: str) -> Failure:
    at = datetime.datetime.fromisoformat(timestamp).timestamp()
    return Failure(node=node.address, peer=address.rpartition(":")[0], at=at)
