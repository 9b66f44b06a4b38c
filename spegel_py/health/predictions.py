"""Predicted failures of peers, scored against what happened: each is counted once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spegel_py.tools.bounded import BoundedDict

PATIENCE, GRACE = 2.0, 10.0
"""A prediction is true if the failure comes within PATIENCE times the predicted lead, plus GRACE
seconds."""

REST = 300.0
"""Seconds after a false alarm in which no new prediction is made for the same peer."""

REMEMBERED = 256
"""Peers at most whose REST is remembered."""


class PredictionOutcome(Enum):
    """How a prediction, or a failure without one, was scored; the value is the metric's label."""

    TRUE = "true"
    FALSE = "false"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A peer will fail `lead` seconds after `made`; from `until` on, it counts as a false alarm.

    `is_silence` is True if the peer does not answer any more, so that it may just restart.
    """

    reason: str
    lead: float
    made: float
    until: float
    is_silence: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; predicted {self.lead:.0f} s ahead"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPrediction:
    """The score of a prediction; `lead` is the seconds that a true one came ahead."""

    peer: str
    outcome: PredictionOutcome
    reason: str
    lead: float | None = None


class Predictions:
    """The open predictions, at most one for each peer. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._open: dict[str, Prediction] = {}
        self._resting: BoundedDict[str, float] = BoundedDict(limit=REMEMBERED)

    def __repr__(self) -> str:
        return f"<Predictions {len(self._open)} open>"

    def open(self) -> dict[str, Prediction]:
        """Return the open predictions by peer id."""
        return dict(self._open)

    def predict(
        self, peer: str, *, reason: str, lead: float, now: float, is_silence: bool = False
    ) -> bool:
        """Predict that a peer fails in `lead` seconds.

        Return False if a prediction for the peer is open, or ended as a false alarm within REST.
        """
        if peer in self._open or now < self._resting.get(peer, now):
            return False
        until = now + PATIENCE * lead + GRACE
        self._open[peer] = Prediction(reason, lead, now, until, is_silence)
        return True

    def failed(self, peer: str, *, reason: str, now: float) -> ScoredPrediction:
        """Score a failure: its prediction was true, or it was missed."""
        if (prediction := self._open.pop(peer, None)) is None:
            return ScoredPrediction(peer=peer, outcome=PredictionOutcome.MISSED, reason=reason)
        return ScoredPrediction(
            peer=peer,
            outcome=PredictionOutcome.TRUE,
            reason=prediction.reason,
            lead=now - prediction.made,
        )

    def left(self, peer: str) -> None:
        """Drop the prediction for a peer that left in good order: it can no longer be scored."""
        self._open.pop(peer, None)

    def overdue(self, now: float) -> list[ScoredPrediction]:
        """Close the predictions whose time is over, and return them as false alarms."""
        over = [(peer, each) for peer, each in self._open.items() if each.until <= now]
        for peer, _ in over:
            del self._open[peer]
            self._resting[peer] = now + REST
        return [
            ScoredPrediction(peer=peer, outcome=PredictionOutcome.FALSE, reason=each.reason)
            for peer, each in over
        ]
