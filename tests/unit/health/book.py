"""A health book whose events are kept, for tests."""

from __future__ import annotations

from random import Random

from spegel_py.health.events import HealthEvent, Kind
from spegel_py.health.health import Health
from spegel_py.health.peer_health import HealthRules
from spegel_py.metrics import NodeMetrics
from spegel_py.routing.base import Member, Peer

A, B, C = (Peer(name, f"10.0.0.{number}", 5000) for number, name in enumerate("abc"))


class Book(Health):
    """Health with the defaults, and what it told."""

    def __init__(self, seed: int = 1) -> None:
        self.metrics = NodeMetrics()
        self.events: list[HealthEvent] = []
        self.goodbyes: set[str] = set()
        super().__init__(
            rules=HealthRules(),
            interval=10.0,
            metrics=self.metrics.health,
            random=Random(seed),
            left=self.goodbyes.__contains__,
            on_event=self.events.append,
        )

    @property
    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.events]

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 if nothing was counted."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def member(peer: Peer, heard: float | None = 0.0, interval: float = 4.0) -> Member:
    """Return a peer that is connected, as a router tells of it; one that does not announce has no `heard`."""
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
