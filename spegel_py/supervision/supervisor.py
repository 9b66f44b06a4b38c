"""Supervision of one node: it observes once a second, opens and closes alerts, and runs repairs.

It also answers the probes, and the questions of the admin pages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import structlog
from prometheus_client import CollectorRegistry

from spegel_py.errors import RouterUnavailable
from spegel_py.supervision.alerts import Alert, AlertBook
from spegel_py.supervision.conditions import DATA_DIR_READ_ONLY
from spegel_py.supervision.history import DiskFault, History, read_history
from spegel_py.supervision.isolation import (
    Episode,
    Isolation,
    IsolationLevel,
    IsolationThresholds,
    PeerTracker,
)
from spegel_py.supervision.loop_monitor import LoopMonitor
from spegel_py.supervision.metrics import SupervisionMetrics
from spegel_py.supervision.observer import SETTLED_AFTER, NodeSignals, Observer
from spegel_py.supervision.readiness import ReadinessInput, liveness, readiness, why_not_ready
from spegel_py.supervision.repair_runner import RepairRunner
from spegel_py.supervision.repairs import (
    RepairActions,
    RepairOutcome,
    RepairRecord,
    repair_table,
)
from spegel_py.tools.threads import DetachedThread

log = structlog.get_logger(__name__)

TICK = 1.0
"""Seconds between two observations: the tightest objective is 5 s."""

PING_INTERVAL, PONG, MISSES = 2.0, 5.0, 2
"""Seconds between two pings of the libp2p side, seconds for its answer, and consecutive misses
after which it counts as hung. A process that was stopped for a while sees a single miss."""

RECALL_TIMEOUT, LAST_RECORDS = 5.0, 1.0
"""Seconds for reading earlier records at the start, and for writing the last ones at the end."""

DISK_INTERVAL = 5.0
"""Seconds between two checks of the disks, which also retry waiting records. A new record is
written at once."""

DISK_TIMEOUT = 10.0
"""Seconds after which a disk that does not finish a write counts as read-only."""


class Supervisor:
    """The supervision of one node.

    `folder` is the data directory, None to keep all records in memory.
    """

    def __init__(
        self,
        *,
        folder: Path | None,
        signals: NodeSignals,
        actions: RepairActions,
        thresholds: IsolationThresholds,
        registry: CollectorRegistry,
        rng: Random,
    ) -> None:
        now, wall = time.monotonic(), time.time()
        self._folder = folder
        self._signals = signals
        self._thresholds = thresholds
        self._metrics = SupervisionMetrics(registry=registry)
        self._isolation = Isolation(warn=thresholds.warn, critical=thresholds.critical, now=now)
        self._peers = PeerTracker()
        self._observer = Observer(
            signals=signals, isolation=self._isolation, peers=self._peers, wall=wall, now=now
        )
        self._book = AlertBook()
        self._history = History(folder=folder, still_open=self._book.open)
        self._table = repair_table(actions)
        self._runner = RepairRunner(
            table=self._table, on_repair=self._on_repair, on_escalated=self._escalated, rng=rng
        )
        self._loop_monitor: LoopMonitor | None = None
        self._hung_since: float | None = None
        self._faults: Collection[DiskFault] = ()
        self._writing_since: float | None = None
        self._has_news = asyncio.Event()  # a record waits to be written

    def __repr__(self) -> str:
        return f"<Supervisor {self._book!r} {self._isolation!r}>"

    async def run(self) -> None:
        """Supervise until cancelled."""
        with (
            DetachedThread(name="supervision-disk") as disk,
            LoopMonitor(on_lag=self._metrics.lagged) as self._loop_monitor,
        ):
            await self._recall(disk)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._keep_pinging(), name="libp2p ping")
                    tasks.create_task(self._keep_writing(disk), name="history")
                    while True:
                        self._try_tick(tasks)
                        await asyncio.sleep(TICK)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_RECORDS):
                        await disk.run(partial(self._history.flush, ()))

    # Answers

    def readiness(self) -> Mapping[str, object]:
        """Return the body of `/readyz`, as of now."""
        return readiness(self._readiness_input())

    def not_ready(self) -> str | None:
        """Return the reason why the node is not ready, None if it is."""
        return why_not_ready(self._readiness_input())

    def liveness(self) -> Mapping[str, object]:
        """Return the body of `/livez`, as of now."""
        lag = self._loop_monitor.lag() if self._loop_monitor else 0.0
        return liveness(
            lag=lag,
            beyond_repair=[
                alert.condition
                for alert in self._book.open()
                if alert.escalated and self._table[alert.condition].restart_helps
            ],
        )

    def describe(self) -> Mapping[str, object]:
        """Return the member `supervision` of `/debug/state`."""
        now = time.monotonic()
        return {
            "alerts": [alert.as_record() for alert in self._book.open()],
            "isolation": {
                "cut_off": self._isolation.cut_off_since() is not None,
                "seconds_without_peer": round(self._isolation.time_since_peer(now), 1),
                "known_peers": self._peers.known,
                "lost_peers": len(self._peers.lost()),
                "episodes": len(self._history.episodes),
            },
            "not_ready": self.not_ready(),
            "not_live": self.liveness()["reasons"],
            "actions": [action.as_record() for action in list(self._history.repairs)[-10:]],
        }

    def history(self) -> Mapping[str, object]:
        """Return the latest alerts, episodes of isolation and repairs, the latest first."""
        return {
            "alerts": [alert.as_record() for alert in reversed(self._history.alerts.values())],
            "isolation": [episode.as_record() for episode in reversed(self._history.episodes)],
            "actions": [action.as_record() for action in reversed(self._history.repairs)],
        }

    def _readiness_input(self) -> ReadinessInput:
        peers = len(self._signals.connected())
        return ReadinessInput(
            peers=peers,
            alone=0.0 if peers else self._isolation.time_since_peer(time.monotonic()),
            has_lost=self._peers.has_lost_all,
            ready_when_alone=self._thresholds.ready_when_alone,
            nothing_shared=self._signals.nothing_shared(),
            not_preheated=self._signals.not_preheated(),
        )

    def disk_faults(self) -> list[str]:
        """Return the faults of this node's disks, as sentences."""
        faults = [*self._faults, *self._stuck(time.monotonic())]
        return [f"{one.condition.name} at {one.folder}: {one.detail}" for one in faults]

    def audit(self, record: Mapping[str, object]) -> None:
        """Write a record of an action that a person or another program asked for."""
        self._history.add_action(record)
        self._has_news.set()

    # Observing

    def _try_tick(self, tasks: asyncio.TaskGroup) -> None:
        try:
            self._tick(tasks)
        except Exception as error:  # noqa: BLE001 - supervision must not end the node
            log.error("supervision failed", error=repr(error))

    def _tick(self, tasks: asyncio.TaskGroup) -> None:
        now, wall = time.monotonic(), time.time()
        self._count_peers(now, wall)
        observations = self._observer.observe(
            now=now,
            wall=wall,
            hung_since=self._hung_since,
            stalled_since=self._loop_monitor.pop_stall() if self._loop_monitor else None,
            faults=[*self._faults, *self._stuck(now)],
        )
        for alert in self._book.observe(observations, now=now, wall=wall):
            (self._opened if alert.is_open else self._closed)(alert)
        persisting = [alert for alert in self._book.open() if self._book.persists(alert)]
        self._runner.start_due(persisting, tasks)
        self._metrics.open(self._book.open())

    def _count_peers(self, now: float, wall: float) -> None:
        connected, life = self._signals.connected(), self._signals.life()
        if life.is_up and now - life.since >= SETTLED_AFTER:
            self._peers.update(connected=connected, goodbyes=self._signals.goodbyes(), now=now)
        else:  # a peer that dies now is missed as soon as peers count as lost
            self._peers.meet(connected, now=now)
        is_expecting = self._signals.expects_peers() or self._peers.has_lost_all
        episode = self._isolation.observe(
            peers=len(connected), is_expecting=is_expecting, now=now, wall=wall
        )
        if episode is not None:
            self._report(episode)
        self._metrics.peers(
            is_cut_off=self._isolation.cut_off_since() is not None,
            seconds=self._isolation.time_since_peer(now),
            known=self._peers.known,
        )

    def _stuck(self, now: float) -> list[DiskFault]:
        if (
            self._folder is None
            or self._writing_since is None
            or now - self._writing_since < DISK_TIMEOUT
        ):
            return []
        return [DiskFault(DATA_DIR_READ_ONLY, self._folder, "the disk does not answer")]

    async def _keep_pinging(self) -> None:
        misses, first = 0, 0.0
        while True:
            await asyncio.sleep(PING_INTERVAL)
            began = time.monotonic()
            try:
                async with asyncio.timeout(PONG):
                    await self._signals.ping()
                misses, self._hung_since = 0, None
            except TimeoutError:
                misses, first = misses + 1, first if misses else began
                if misses >= MISSES:
                    self._hung_since = first
            except RouterUnavailable:
                continue  # it is down, which is a condition of its own

    # Reporting

    def _report(self, episode: Episode) -> None:
        self._history.add_episode(episode)
        self._has_news.set()
        seconds = round(episode.seconds, 1)
        if episode.ended is not None:
            log.info("isolation over", seconds=seconds, level=episode.level.value)
        elif episode.level is IsolationLevel.CRITICAL:
            log.critical("isolated", time_since_peer=seconds, known_peers=self._peers.known)
        else:
            log.warning("isolated", time_since_peer=seconds, known_peers=self._peers.known)

    def _opened(self, alert: Alert) -> None:
        self._metrics.opened(alert)
        self._write(alert)
        log.warning(
            "alert opened",
            **_fields(alert),
            detection_seconds=round(alert.detection, 1),
            detail=alert.detail,
        )

    def _closed(self, alert: Alert) -> None:
        self._metrics.closed(alert)
        self._write(alert)
        self._runner.record_verified(alert, f"{len(self._signals.connected())} peers connected")
        log.info("alert closed", **_fields(alert), recovery_seconds=round(alert.recovery or 0.0, 1))

    def _escalated(self, alert: Alert) -> None:
        self._write(self._book.escalate(alert))
        log.error("alert escalated", **_fields(alert))

    def _on_repair(self, record: RepairRecord) -> None:
        self._metrics.repaired(record)
        self._history.add_repair(record)
        self._has_news.set()

    # Writing

    def _write(self, alert: Alert) -> None:
        self._history.add_alert(alert)
        self._has_news.set()

    async def _recall(self, disk: DetachedThread) -> None:
        """Read the history of earlier lives of this node, and close the alerts they left open."""
        try:
            async with asyncio.timeout(RECALL_TIMEOUT):
                history = await disk.run(partial(read_history, self._folder))
        except (OSError, TimeoutError) as error:
            log.warning(
                "earlier alerts cannot be read", folder=str(self._folder), error=repr(error)
            )
            return
        self._book.recall(history.alerts)
        self._history.remember(history.alerts)
        self._history.episodes.extend(history.episodes)
        wall = time.time()
        for alert in history.alerts:
            if alert.is_open:
                self._history.add_alert(replace(alert, closed=wall))
                record = RepairRecord(
                    alert=alert.id,
                    action="restart",
                    outcome=RepairOutcome.INTERRUPTED,
                    began=wall,
                    seconds=0.0,
                )
                self._on_repair(record)

    async def _keep_writing(self, disk: DetachedThread) -> None:
        while True:
            self._writing_since = time.monotonic()
            self._faults = await disk.run(partial(self._history.flush, self._signals.folders()))
            self._writing_since = None
            with suppress(TimeoutError):
                async with asyncio.timeout(DISK_INTERVAL):
                    await self._has_news.wait()
            self._has_news.clear()


def _fields(alert: Alert) -> Mapping[str, str]:
    return {
        "id": alert.id,
        "tier": alert.tier.label,
        "condition": alert.condition,
        "subject": alert.subject,
    }
