"""Supervision put together: it looks once a second, keeps the book of alerts, has repairs made, and answers probes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import structlog
from prometheus_client import CollectorRegistry

from spegel_py.errors import RouterUnavailable
from spegel_py.supervision.alerts import Alert, Book
from spegel_py.supervision.audit import Action
from spegel_py.supervision.census import Census
from spegel_py.supervision.chronicle import Chronicle, recall
from spegel_py.supervision.conditions import DATA_DIR_READ_ONLY
from spegel_py.supervision.disk import Fault
from spegel_py.supervision.isolation import Episode, Isolation, Level
from spegel_py.supervision.loop import LoopWatch
from spegel_py.supervision.medic import Medic
from spegel_py.supervision.meters import Meters
from spegel_py.supervision.probes import Standing, liveness, readiness, why_not_ready
from spegel_py.supervision.repairs import Hands, table
from spegel_py.supervision.senses import SETTLED_AFTER, Senses, Watch
from spegel_py.tools.threads import DetachedThread

log = structlog.get_logger(__name__)

TICK = 1.0
"""Seconds between two looks: the tightest objective is 5 s."""
PING_INTERVAL, PONG, MISSES = 2.0, 5.0, 2
"""Seconds between pings of the libp2p side and for an answer, and the misses in a row that say that it hangs: one is
what a process sees that was stopped for a while itself."""
RECALL_TIMEOUT, LAST_WORDS = 5.0, 1.0
"""Seconds for reading what was written before, and for writing the last records at the end."""
DISK_INTERVAL = 5.0
"""Seconds between two looks at the disks, which are also tries to write what waits; a new record is written at once."""
DISK_TIMEOUT = 10.0
"""Seconds after which a disk that does not come back with a write counts as one that cannot be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds without a peer: until the warning, until the critical line, and until a node that is alone counts as
    ready (None: never)."""

    warn: float
    critical: float
    ready_when_alone: float | None


class Supervisor:
    """One node's supervision. `folder` is the data directory, None to keep everything in memory."""

    def __init__(
        self,
        *,
        folder: Path | None,
        senses: Senses,
        hands: Hands,
        patience: Patience,
        registry: CollectorRegistry,
        rng: Random,
    ) -> None:
        now, wall = time.monotonic(), time.time()
        self._folder = folder
        self._senses = senses
        self._patience = patience
        self._meters = Meters(registry=registry)
        self._isolation = Isolation(warn=patience.warn, critical=patience.critical, now=now)
        self._census = Census()
        self._watch = Watch(
            senses=senses, isolation=self._isolation, census=self._census, wall=wall, now=now
        )
        self._book = Book()
        self._chronicle = Chronicle(folder=folder, still_open=self._book.open)
        self._table = table(hands)
        self._medic = Medic(
            table=self._table, acted=self._acted, escalated=self._escalated, rng=rng
        )
        self._loop_watch: LoopWatch | None = None
        self._hung_since: float | None = None
        self._faults: Collection[Fault] = ()
        self._writing_since: float | None = None
        self._is_written = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Supervisor {self._book!r} {self._isolation!r}>"

    async def run(self) -> None:
        """Supervise until cancelled."""
        with (
            DetachedThread(name="supervision-disk") as disk,
            LoopWatch(lagged=self._meters.lagged) as self._loop_watch,
        ):
            await self._recall(disk)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._keep_pinging(), name="libp2p ping")
                    tasks.create_task(self._keep_writing(disk), name="chronicle")
                    while True:
                        self._try_tick(tasks)
                        await asyncio.sleep(TICK)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORDS):
                        await disk.run(partial(self._chronicle.flush, ()))

    # What others ask

    def readiness(self) -> Mapping[str, object]:
        """Return the body of `/readyz`, true at this moment."""
        return readiness(self._standing())

    def not_ready(self) -> str | None:
        """Return why the node is not ready, None when it is."""
        return why_not_ready(self._standing())

    def liveness(self) -> Mapping[str, object]:
        """Return the body of `/livez`, true at this moment."""
        lag = self._loop_watch.lag() if self._loop_watch else 0.0
        return liveness(
            lag=lag,
            beyond_repair=[
                alert.condition
                for alert in self._book.open()
                if alert.escalated and self._table[alert.condition].restart_helps
            ],
        )

    def describe(self) -> Mapping[str, object]:
        """Return what `/debug/state` says of supervision."""
        now = time.monotonic()
        return {
            "alerts": [alert.as_record() for alert in self._book.open()],
            "isolation": {
                "cut_off": self._isolation.cut_off_since() is not None,
                "seconds_without_peer": round(self._isolation.time_since_peer(now), 1),
                "known_peers": self._census.known,
                "lost_peers": len(self._census.lost()),
                "episodes": len(self._chronicle.episodes),
            },
            "not_ready": self.not_ready(),
            "not_live": self.liveness()["reasons"],
            "actions": [action.as_record() for action in list(self._chronicle.actions)[-10:]],
        }

    def history(self) -> Mapping[str, object]:
        """Return the alerts, the stretches of isolation and the actions that are remembered, the latest first."""
        return {
            "alerts": [alert.as_record() for alert in reversed(self._chronicle.alerts.values())],
            "isolation": [episode.as_record() for episode in reversed(self._chronicle.episodes)],
            "actions": [action.as_record() for action in reversed(self._chronicle.actions)],
        }

    def _standing(self) -> Standing:
        peers = len(self._senses.connected())
        return Standing(
            peers=peers,
            alone=0.0 if peers else self._isolation.time_since_peer(time.monotonic()),
            has_lost=self._census.has_lost_all,
            ready_when_alone=self._patience.ready_when_alone,
        )

    # Looking

    def _try_tick(self, tasks: asyncio.TaskGroup) -> None:
        try:
            self._tick(tasks)
        except Exception as error:  # noqa: BLE001 - what watches over the node must not be what ends it
            log.error("supervision failed", error=repr(error))

    def _tick(self, tasks: asyncio.TaskGroup) -> None:
        now, wall = time.monotonic(), time.time()
        self._count_peers(now, wall)
        seen = self._watch.look(
            now=now,
            wall=wall,
            hung_since=self._hung_since,
            stalled_since=self._loop_watch.take_stall() if self._loop_watch else None,
            faults=[*self._faults, *self._stuck(now)],
        )
        for alert in self._book.observe(seen, now=now, wall=wall):
            (self._opened if alert.is_open else self._closed)(alert)
        self._medic.attend(
            [alert for alert in self._book.open() if self._book.persists(alert)], tasks
        )
        self._meters.open(self._book.open())

    def _count_peers(self, now: float, wall: float) -> None:
        connected, life = self._senses.connected(), self._senses.life()
        if life.is_up and now - life.since >= SETTLED_AFTER:
            self._census.take(connected=connected, goodbyes=self._senses.goodbyes(), now=now)
        is_expecting = self._senses.expects_peers() or self._census.has_lost_all
        episode = self._isolation.observe(
            peers=len(connected), is_expecting=is_expecting, now=now, wall=wall
        )
        if episode is not None:
            self._tell(episode)
        self._meters.peers(
            is_cut_off=self._isolation.cut_off_since() is not None,
            seconds=self._isolation.time_since_peer(now),
            known=self._census.known,
        )

    def _stuck(self, now: float) -> list[Fault]:
        if (
            self._folder is None
            or self._writing_since is None
            or now - self._writing_since < DISK_TIMEOUT
        ):
            return []
        return [Fault(DATA_DIR_READ_ONLY, self._folder, "the disk does not answer")]

    async def _keep_pinging(self) -> None:
        misses, first = 0, 0.0
        while True:
            await asyncio.sleep(PING_INTERVAL)
            began = time.monotonic()
            try:
                async with asyncio.timeout(PONG):
                    await self._senses.ping()
                misses, self._hung_since = 0, None
            except TimeoutError:
                misses, first = misses + 1, first if misses else began
                if misses >= MISSES:
                    self._hung_since = first
            except RouterUnavailable:
                continue  # it is down, which is seen by itself

    # Telling

    def _tell(self, episode: Episode) -> None:
        self._chronicle.episode(episode)
        self._is_written.set()
        seconds = round(episode.seconds, 1)
        if episode.ended is not None:
            log.info("isolation over", seconds=seconds, level=episode.level.value)
        elif episode.level is Level.CRITICAL:
            log.critical("isolated", time_since_peer=seconds, known_peers=self._census.known)
        else:
            log.warning("isolated", time_since_peer=seconds, known_peers=self._census.known)

    def _opened(self, alert: Alert) -> None:
        self._meters.opened(alert)
        self._write(alert)
        log.warning(
            "alert opened",
            **_fields(alert),
            detection_seconds=round(alert.detection, 1),
            detail=alert.detail,
        )

    def _closed(self, alert: Alert) -> None:
        self._meters.closed(alert)
        self._write(alert)
        self._medic.discharge(alert, f"{len(self._senses.connected())} peers connected")
        log.info("alert closed", **_fields(alert), recovery_seconds=round(alert.recovery or 0.0, 1))

    def _escalated(self, alert: Alert) -> None:
        self._write(self._book.escalate(alert))
        log.error("alert escalated", **_fields(alert))

    def _acted(self, action: Action) -> None:
        self._meters.acted(action)
        self._chronicle.action(action)
        self._is_written.set()

    # Writing

    def _write(self, alert: Alert) -> None:
        self._chronicle.alert(alert)
        self._is_written.set()

    async def _recall(self, disk: DetachedThread) -> None:
        """Go on where the last life of this node ended; what it left open has ended with it."""
        try:
            async with asyncio.timeout(RECALL_TIMEOUT):
                history = await disk.run(partial(recall, self._folder))
        except (OSError, TimeoutError) as error:
            log.warning(
                "earlier alerts cannot be read", folder=str(self._folder), error=repr(error)
            )
            return
        self._book.recall(history.alerts)
        self._chronicle.remember(history.alerts)
        self._chronicle.episodes.extend(history.episodes)
        wall = time.time()
        for alert in history.alerts:
            if alert.is_open:
                self._chronicle.alert(replace(alert, closed=wall))
                self._acted(
                    Action(
                        alert=alert.id,
                        action="restart",
                        outcome="interrupted",
                        began=wall,
                        seconds=0.0,
                    )
                )

    async def _keep_writing(self, disk: DetachedThread) -> None:
        while True:
            self._writing_since = time.monotonic()
            self._faults = await disk.run(partial(self._chronicle.flush, self._senses.folders))
            self._writing_since = None
            with suppress(TimeoutError):
                async with asyncio.timeout(DISK_INTERVAL):
                    await self._is_written.wait()
            self._is_written.clear()


def _fields(alert: Alert) -> Mapping[str, str]:
    return {
        "id": alert.id,
        "tier": alert.tier.label,
        "condition": alert.condition,
        "subject": alert.subject,
    }
