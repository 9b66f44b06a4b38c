"""What was done, by whom, for which alert, and how it ended: one record for each automatic action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ACTOR = "spegel-py"
"""Who acts: this program by itself; nobody else writes here."""

Outcome = Literal["done", "failed", "timed-out", "verified", "escalated", "interrupted"]
"""How an action ended. `verified` is said of the alert as a whole, when its condition has stayed away, and `escalated`
when there is nothing left to try; `interrupted` closes what an earlier life of the node left open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action; `began` is Unix time."""

    alert: str
    action: str
    outcome: Outcome
    began: float
    seconds: float
    detail: str = ""
    actor: str = ACTOR

    def as_record(self) -> dict[str, object]:
        return {
            "alert": self.alert,
            "actor": self.actor,
            "action": self.action,
            "outcome": self.outcome,
            "began": round(self.began, 3),
            "seconds": round(self.seconds, 3),
            "detail": self.detail,
        }
