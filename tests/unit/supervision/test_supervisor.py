"""The supervisor as a whole over senses that a test sets: what it says, writes and answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry

from spegel_py.routing.base import Life
from spegel_py.supervision.history import read_history
from spegel_py.supervision.isolation import IsolationThresholds
from spegel_py.supervision.observer import NodeSignals
from spegel_py.supervision.repairs import RepairActions
from spegel_py.supervision.supervisor import Supervisor
from tests.support.processes import until


@dataclass
class Node:
    """What is seen of a node, and what was done to it."""

    folder: Path | None = None
    away: float | None = None
    peers: list[str] = field(default_factory=lambda: ["a"])
    unhealthy: Any = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def supervisor(self) -> Supervisor:
        return Supervisor(
            folder=self.folder,
            signals=NodeSignals(
                connected=lambda: self.peers,
                goodbyes=tuple,
                expects_peers=lambda: True,
                life=lambda: Life(number=1, is_up=True, since=0.0),
                ping=self._nothing,
                containerd_away=lambda: self.away,
                unhealthy=lambda: self.unhealthy,
            ),
            actions=RepairActions(
                rejoin=self._nothing,
                await_router=self._nothing,
                restart_router=self._nothing,
                reconnect_containerd=self._reconnect,
            ),
            thresholds=IsolationThresholds(warn=10.0, critical=20.0, ready_when_alone=0.0),
            registry=self.registry,
            rng=Random(1),
        )

    async def _nothing(self) -> None:
        return None

    async def _reconnect(self) -> None:
        self.done.append("reconnect")
        self.away = None


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Supervisor]:
    supervisor = node.supervisor()
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        await asyncio.wait([task])


def conditions(supervisor: Supervisor) -> list[str]:
    alerts: Any = supervisor.describe()["alerts"]
    return [alert["condition"] for alert in alerts]


async def test_what_is_wrong_is_seen_repaired_and_written(tmp_path: Path) -> None:
    """An alert is opened, its repair carried out once, and it is closed; the files hold both, and
    the metrics too.
    """
    node = Node(folder=tmp_path / "data", away=time.monotonic())
    async with running(node) as supervisor:

        async def is_over() -> bool:
            return bool(history := read_history(node.folder).alerts) and not history[0].is_open

        await until(is_over)
        assert node.done == ["reconnect"]
        assert json.loads(json.dumps(supervisor.describe()))["not_ready"] is None
        assert supervisor.liveness()["live"] is True
    history = read_history(node.folder)
    assert [action["outcome"] for action in history.repairs] == ["done", "verified"]
    value = node.registry.get_sample_value
    assert value("spegel_repairs_total", {"action": "reconnect containerd", "outcome": "done"}) == 1
    assert value("spegel_alert_detection_seconds_count", {"tier": "P1"}) == 1
    assert value("spegel_alerts_open", {"tier": "P1"}) == 0
    assert (value("spegel_event_loop_lag_seconds_count") or 0) > 0


async def test_without_a_folder_all_of_it_works_in_memory() -> None:
    """Alerts and actions are shown as long as the node lives."""
    node = Node(away=time.monotonic())
    async with running(node) as supervisor:

        async def is_done() -> bool:
            actions: Any = supervisor.describe()["actions"]
            return [action["outcome"] for action in actions] == ["done", "verified"]

        await until(is_done)


async def test_what_was_wrong_is_remembered_over_a_restart(tmp_path: Path) -> None:
    """The latest first, each alert once, as it was last; what an earlier life of the node wrote
    too.
    """
    for _ in range(2):
        async with running(Node(folder=tmp_path / "data", away=time.monotonic())) as supervisor:

            async def is_over(supervisor: Supervisor = supervisor) -> bool:
                alerts: Any = supervisor.history()["alerts"]
                return (
                    bool(alerts)
                    and all(alert["closed"] for alert in alerts)
                    and not conditions(supervisor)
                )

            await until(is_over)
            history: Any = json.loads(json.dumps(supervisor.history()))
    assert [alert["id"][-3:] for alert in history["alerts"]] == ["002", "001"]
    assert [action["outcome"] for action in history["actions"]] == ["verified", "done"]
    assert history["isolation"] == []


async def test_senses_that_fail_do_not_end_it() -> None:
    """A fault in what is asked costs looks, and nothing else."""
    node = Node(unhealthy=None)  # no mapping
    async with running(node) as supervisor:
        await asyncio.sleep(0)
        node.unhealthy = {"peer": "why"}

        async def is_seen() -> bool:
            return conditions(supervisor) == ["peer-unhealthy"]

        await until(is_seen)
