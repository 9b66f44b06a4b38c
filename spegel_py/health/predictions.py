"""What was foretold against what came: every prediction and every failure is counted once. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from spegel_py.tools.bounded import BoundedDict

PATIENCE, GRACE = 2.0, 10.0
"""A failure was foretold if it comes within so many times the foretold lead, and that many seconds more."""

REST = 300.0
"""Seconds after a false alarm in which nothing is foretold of the same peer."""

REMEMBERED = 256
"""Outcomes kept, and peers that are at rest."""


class PredictionOutcome(Enum):
    """What became of a prediction, or of a failure that nobody foretold; the value is the metric's label."""

    TRUE = "true"
    FALSE = "false"
    MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPrediction:
    """A prediction that came to its end, at monotonic time `at`; `lead` is how many seconds ahead a true one came."""

    peer: str
    verdict: PredictionOutcome
    reason: str
    at: float
    lead: float | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    reason: str
    lead: float
    made: float
    until: float


class Predictions:
    """At most one prediction of each peer is open. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._resting: BoundedDict[str, float] = BoundedDict(limit=REMEMBERED)
        self.outcomes: deque[ScoredPrediction] = deque(maxlen=REMEMBERED)

    def __repr__(self) -> str:
        return f"<Predictions {len(self._open)} open, {len(self.outcomes)} outcomes>"

    def predict(self, peer: str, *, reason: str, lead: float, now: float) -> bool:
        """Foretell that a peer fails in `lead` seconds; False if that is foretold already, or was just now in vain."""
        if peer in self._open or now < self._resting.get(peer, now):
            return False
        self._open[peer] = _Open(reason, lead, now, now + PATIENCE * lead + GRACE)
        return True

    def failed(self, peer: str, *, reason: str, now: float) -> ScoredPrediction:
        """Note that a peer failed: the prediction came true, or there was none."""
        foretold = self._open.pop(peer, None)
        if foretold is None:
            return self._keep(
                ScoredPrediction(peer=peer, verdict=PredictionOutcome.MISSED, reason=reason, at=now)
            )
        lead = now - foretold.made
        return self._keep(
            ScoredPrediction(
                peer=peer, verdict=PredictionOutcome.TRUE, reason=foretold.reason, at=now, lead=lead
            )
        )

    def left(self, peer: str) -> None:
        """Note that a peer left in good order: nobody will know whether it would have failed."""
        self._open.pop(peer, None)

    def open(self) -> dict[str, str]:
        """Return what is foretold, by the peers' ids."""
        return {
            peer: f"{each.reason}; foretold {each.lead:.0f} s ahead"
            for peer, each in self._open.items()
        }

    def overdue(self, now: float) -> list[ScoredPrediction]:
        """Return the predictions whose time is over: false alarms."""
        over = [(peer, each) for peer, each in self._open.items() if each.until <= now]
        for peer, _ in over:
            del self._open[peer]
            self._resting[peer] = now + REST
        return [
            self._keep(
                ScoredPrediction(
                    peer=peer, verdict=PredictionOutcome.FALSE, reason=each.reason, at=now
                )
            )
            for peer, each in over
        ]

    def _keep(self, outcome: ScoredPrediction) -> ScoredPrediction:
        self.outcomes.append(outcome)
        return outcome
