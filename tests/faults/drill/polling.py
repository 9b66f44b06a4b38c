"""Polls `/debug/state` of nodes, and records when each alert was first seen open and closed."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from spegel_py.routing.libp2p.peer_records import TTL_FACTOR
from tests.benchmarks.loss import INTERVAL
from tests.faults.drill.cluster import DrillCluster
from tests.support.lab import Node

PAUSE = 0.2
"""Seconds between two polls of one node."""


class StatePoller:
    """Alerts and peers as nodes showed them. Times are monotonic seconds.

    Args:
        cluster: The machines.
        victim: The node that the fault strikes.
        known: The ids of earlier alerts by node, which are ignored.
    """

    def __init__(
        self, *, cluster: DrillCluster, victim: Node, known: Mapping[Node, Collection[str]]
    ) -> None:
        self._cluster = cluster
        self._victim = cluster.id(victim)
        self._known = known
        self._alerts: dict[Node, dict[str, tuple[float, Mapping[str, Any]]]] = {
            node: {} for node in cluster.nodes
        }
        self._closed: dict[tuple[Node, str], float] = {}
        self._missed: dict[Node, float | None] = {}

    @asynccontextmanager
    async def polling(self, nodes: Collection[Node]) -> AsyncIterator[None]:
        """Poll these nodes while the block lasts."""
        tasks = [asyncio.create_task(self._poll(node)) for node in nodes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def opened(self, node: Node, condition: str, subject: str | None) -> tuple[float, str] | None:
        """Return when a node first showed an alert of this condition, and the alert's id.

        If `subject` is given, only alerts about it count.
        """
        for identity, (at, alert) in self._alerts[node].items():
            if alert["condition"] == condition and subject in (None, alert["subject"]):
                return at, identity
        return None

    def closed(self, node: Node, identity: str) -> float | None:
        """Return when a node first showed an alert as closed."""
        return self._closed.get((node, identity))

    def missed(self, node: Node) -> float | None:
        """Return since when a node no longer offers the victim; None if it does."""
        return self._missed.get(node)

    async def _poll(self, node: Node) -> None:
        while True:
            with suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                self._record(node, await self._cluster.state(node))
            await asyncio.sleep(PAUSE)

    def _record(self, node: Node, state: Mapping[str, Any]) -> None:
        at = time.monotonic()
        present = {alert["id"]: alert for alert in state["supervision"]["alerts"]}
        for identity, alert in present.items():
            if identity not in self._known[node]:
                self._alerts[node].setdefault(identity, (at, alert))
        for identity in self._alerts[node].keys() - present.keys():
            self._closed.setdefault((node, identity), at)
        is_offered = any(
            peer["id"] == self._victim and _is_current(peer) for peer in state["peers"]
        )
        self._missed[node] = None if is_offered else self._missed.get(node) or at


def _is_current(peer: Mapping[str, Any]) -> bool:
    return peer["heard_seconds"] is None or peer["heard_seconds"] < TTL_FACTOR * INTERVAL
