"""What is told about peers' health: one value for each turn, for the log, the metrics and whoever raises alerts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spegel_py.routing.base import Peer


class HealthState(Enum):
    """How a peer is; the value is the metric's label."""

    HEALTHY = "healthy"
    SUSPECTED = "suspected"
    UNHEALTHY = "unhealthy"


class Kind(Enum):
    """What happened."""

    SUSPECTED = "suspected"
    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"  # again
    LOST = "lost"  # its connection broke without a goodbye
    PREDICTED = "predicted"  # it will fail in `lead` seconds
    FORETOLD = "foretold"  # it failed, `lead` seconds after that was predicted
    FALSE_ALARM = "false alarm"  # it did not fail
    MISSED = "missed"  # it failed, and nothing was predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthEvent:
    """One turn in a peer's health; `reason` is one line for people, `lead` seconds."""

    kind: Kind
    peer: Peer
    reason: str
    lead: float | None = None
