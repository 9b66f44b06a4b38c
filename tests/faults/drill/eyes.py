"""Looks at what nodes say of themselves, a few times a second, and remembers when each thing was first seen."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from spegel_py.routing.libp2p.records import TTL_FACTOR
from tests.benchmarks.loss import INTERVAL
from tests.faults.drill.ground import Ground, now
from tests.lab import Node

PAUSE = 0.2
"""Seconds between two looks at one node."""


class Eyes:
    """What was seen of some nodes. Times are monotonic seconds; alerts that were `known` before are passed over."""

    def __init__(
        self, *, ground: Ground, victim: Node, known: Mapping[Node, Collection[str]]
    ) -> None:
        self._ground = ground
        self._victim = ground.id(victim)
        self._known = known
        self._alerts: dict[Node, dict[str, tuple[float, Mapping[str, Any]]]] = {
            node: {} for node in ground.nodes
        }
        self._closed: dict[tuple[Node, str], float] = {}
        self._missed: dict[Node, float | None] = {}

    def __repr__(self) -> str:
        return f"<Eyes on {self._ground}>"

    @asynccontextmanager
    async def open(self, nodes: Collection[Node]) -> AsyncIterator[None]:
        """Look at these nodes while the block lasts."""
        tasks = [asyncio.create_task(self._keep_looking(node)) for node in nodes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def opened(self, node: Node, condition: str, subject: str | None) -> tuple[float, str] | None:
        """Return when an alert of the condition (about the subject, if that is given) was first seen, and its id."""
        for identity, (at, alert) in self._alerts[node].items():
            if alert["condition"] == condition and subject in (None, alert["subject"]):
                return at, identity
        return None

    def closed(self, node: Node, identity: str) -> float | None:
        """Return when an alert was first seen to be open no more."""
        return self._closed.get((node, identity))

    def missed(self, node: Node) -> float | None:
        """Return since when a node does not offer the victim; None if it does."""
        return self._missed.get(node)

    async def _keep_looking(self, node: Node) -> None:
        while True:
            with suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                self._take(node, await self._ground.state(node))
            await asyncio.sleep(PAUSE)

    def _take(self, node: Node, state: Mapping[str, Any]) -> None:
        at = now()
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
