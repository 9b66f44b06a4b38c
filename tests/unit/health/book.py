"""Peers' health whose log events are kept, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from spegel_py.health import health as module
from spegel_py.health.health import Health
from spegel_py.health.peer_health import HealthRules
from spegel_py.metrics import NodeMetrics
from spegel_py.routing.base import Member, Peer

A, B, C = (Peer(name, f"10.0.0.{number}", 5000) for number, name in enumerate("abc"))


@dataclass(frozen=True, slots=True)
class Event:
    """A log event: its name, with the outcome of a prediction that ended, and its reason."""

    name: str
    reason: str


class RecordingLog:
    """Stands in for the logger of `health.health`, and keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def info(self, event: str, *, reason: str, outcome: str = "", **_: object) -> None:
        self.events.append(Event(f"{event} {outcome}".strip(), reason))

    warning = info


class Book(Health):
    """Health with the default rules, and its log events. The latest one has the module's logger."""

    def __init__(
        self, seed: int = 1, *, report: Callable[[str], None] = lambda peer_id: None
    ) -> None:
        self.metrics = NodeMetrics()
        self.goodbyes: set[str] = set()
        log = RecordingLog()
        module.log = log
        self.events = log.events
        super().__init__(
            rules=HealthRules(),
            interval=10.0,
            metrics=self.metrics.health,
            random=Random(seed),
            left=self.goodbyes.__contains__,
            report=report,
        )

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 if nothing was counted."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def member(peer: Peer, heard: float | None = 0.0, interval: float = 4.0) -> Member:
    """Return a connected peer as a router reports it; without `heard` it does not announce."""
    return Member(
        id=peer.id,
        address=peer.authority,
        agent="",
        keys=0,
        heard=heard,
        skew=None,
        peer=peer,
        interval=None if heard is None else interval,
    )
