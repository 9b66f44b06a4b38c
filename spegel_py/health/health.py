"""The health of all peers, shared by all pulls: what is told about them goes in, a factor for each comes out. Pure.

Peers go by their id: a new address makes nobody better. One that leaves and comes back starts afresh.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from random import Random

import structlog

from spegel_py.health import heartbeats
from spegel_py.health.check_scheduler import CheckScheduler
from spegel_py.health.events import HealthEvent, HealthState, Kind
from spegel_py.health.metrics import HealthMetrics
from spegel_py.health.peer_health import HealthRules, PeerHealth
from spegel_py.health.predictions import PredictionOutcome, Predictions, ScoredPrediction
from spegel_py.routing.base import Member, Peer

log = structlog.get_logger(__name__)

AGAIN = 0.5
"""Seconds until a check is made again whose result speaks against what the peer was held for: the second and third
then come within seconds, not intervals."""

LIMIT = 4096
"""Peers remembered: those that were heard from or asked last."""

_KINDS = {
    HealthState.HEALTHY: Kind.HEALTHY,
    HealthState.SUSPECTED: Kind.SUSPECTED,
    HealthState.UNHEALTHY: Kind.UNHEALTHY,
}
_ENDS = {
    PredictionOutcome.TRUE: Kind.FORETOLD,
    PredictionOutcome.FALSE: Kind.FALSE_ALARM,
    PredictionOutcome.MISSED: Kind.MISSED,
}


class Health:
    """Says how far each peer is to be trusted. Times are monotonic seconds.

    `on_event` hears every turn once; it must neither block nor raise. `agenda` is what the monitor works off. `left`
    says of a peer whether it said goodbye and is not back: what is still under way to it says nothing of its health.
    """

    def __init__(
        self,
        *,
        rules: HealthRules,
        interval: float,
        metrics: HealthMetrics,
        random: Random,
        left: Callable[[str], bool] = lambda peer_id: False,
        on_event: Callable[[HealthEvent], None] = lambda event: None,
    ) -> None:
        self._rules = rules
        self._metrics = metrics
        self._left = left
        self._on_event = on_event
        self._conditions: OrderedDict[str, PeerHealth] = OrderedDict()
        self._members: dict[str, Peer] = {}
        self._unhealthy: set[str] = set()
        self._is_deaf = False
        self.predictions = Predictions()
        self.agenda = CheckScheduler(interval=interval, random=random)

    def __repr__(self) -> str:
        return f"<Health {self.counts()} {self.agenda!r}>"

    # What the mirror asks and tells

    def weigh(self, peer: Peer, now: float) -> float:
        """Return what the peer's weight is to be multiplied by, 0 to 1, and remember that the peer matters."""
        self.agenda.matters(peer, now)
        condition = self._conditions.get(peer.id)
        return condition.judge(now, is_deaf=self._is_deaf).factor if condition else 1.0

    def answered(
        self, peer: Peer, now: float, *, first_byte: float | None = None, pace: float | None = None
    ) -> None:
        """Take in a request that went well: seconds to the first byte, and of waiting for each MiB of the body."""
        condition = self._of(peer)
        condition.answered(now, first_byte=first_byte, pace=pace)
        self.agenda.proved(peer, now)
        self._review(condition, now)

    def failed(self, peer: Peer, reason: str, now: float, *, is_body: bool = False) -> None:
        """Take in a network error of a request, `is_body` of its body; the peer is checked at once."""
        if self._has_left(peer):
            return
        condition = self._of(peer)
        condition.failed(reason, now, is_body=is_body)
        self.agenda.hurry(peer, now)
        self._review(condition, now)

    def overtaken(self, peer: Peer, now: float) -> None:
        """Take in that others were quicker before the peer had answered a request."""
        if self._has_left(peer):
            return
        if self._of(peer).overtaken(now):
            self.agenda.hurry(peer, now)

    # What the monitor tells

    def checked(self, peer: Peer, failure: str | None, seconds: float, now: float) -> None:
        """Take in a check that took so many seconds; `failure` says why it did not pass."""
        if self._has_left(peer):
            return
        condition = self._conditions.get(peer.id)
        if condition is not None and condition.is_lost:
            self._end(condition, failure, now)
            return
        condition = self._of(peer)
        condition.checked(failure, seconds, now)
        self.agenda.watch(peer, on=failure is not None or not condition.trend.is_healthy)
        if condition.trend.is_healthy == (failure is not None):
            self.agenda.hurry(peer, now, after=AGAIN)
        self._review(condition, now)

    def observe(self, members: Iterable[Member], now: float) -> None:
        """Take in who is connected and when each was heard from."""
        present = {member.id: member for member in members}
        for peer in [peer for name, peer in self._members.items() if name not in present]:
            self._gone(peer, now)
        self._members = {
            name: member.peer for name, member in present.items() if member.peer is not None
        }
        self.agenda.members(self._members.values(), now)
        for name, peer in self._members.items():
            if (condition := self._conditions.get(name)) is not None and condition.is_lost:
                self._forget(name)  # it is back before it could be checked
            member = present[name]
            if member.heard is not None and member.interval is not None:
                self._of(peer).heartbeats.heard(now - member.heard, member.interval)
        self._listen(now)
        self.review(now)

    def is_pressing(self, peer: Peer, now: float) -> bool:
        """Say whether the peer's next check is to be quick."""
        condition = self._conditions.get(peer.id)
        return condition is not None and condition.is_pressing(now)

    def excuse(self, seconds: float) -> None:
        """Take in that this node stood still for so long: nobody's silence in it says anything."""
        for condition in self._conditions.values():
            condition.heartbeats.excuse(seconds)

    def review(self, now: float) -> None:
        """Tell of what has turned by time alone."""
        for condition in list(self._conditions.values()):
            self._review(condition, now)
        for outcome in self.predictions.overdue(now):
            if (known := self._conditions.get(outcome.peer)) is not None:
                self._tell_outcome(known.peer, outcome)

    @property
    def unhealthy(self) -> Collection[str]:
        """The ids of the peers that are to be asked for nothing while there are others."""
        return self._unhealthy

    # For the metrics, the supervision and the state page

    def reasons(self, now: float) -> dict[str, str]:
        """Return why each unhealthy peer is, by its id."""
        return {
            name: self._conditions[name].judge(now, is_deaf=self._is_deaf).reason
            for name in self._unhealthy
        }

    def counts(self) -> Counter[str]:
        """Return how many peers are in which state."""
        return Counter(condition.state.value for condition in self._conditions.values())

    def state(self, peer_id: str) -> HealthState:
        """Return how a peer is; healthy if nothing is known of it."""
        condition = self._conditions.get(peer_id)
        return condition.state if condition is not None else HealthState.HEALTHY

    # Inside

    def _of(self, peer: Peer) -> PeerHealth:
        condition = self._conditions.get(peer.id)
        if condition is None:
            condition = self._conditions[peer.id] = PeerHealth(peer=peer, rules=self._rules)
        condition.peer = peer
        self._conditions.move_to_end(peer.id)
        if len(self._conditions) > LIMIT:
            self._forget(next(iter(self._conditions)))
        return condition

    def _has_left(self, peer: Peer) -> bool:
        """Say whether a peer said goodbye, and forget what was known of it then."""
        if not self._left(peer.id):
            return False
        self._forget(peer.id)
        return True

    def _listen(self, now: float) -> None:
        """Find out whether all are silent at once: then it is this node that hears nothing."""
        phis = [
            self._conditions[name].heartbeats.phi(now)
            for name in self._members
            if name in self._conditions
        ]
        self._is_deaf = len(phis) > 1 and min(phis) >= heartbeats.SUSPECT

    def _review(self, condition: PeerHealth, now: float) -> None:
        if condition.is_lost:
            return
        judgement = condition.judge(now, is_deaf=self._is_deaf)
        if judgement.state is not HealthState.UNHEALTHY:
            self._predict(condition, now)
        if judgement.state is condition.state:
            return
        before, condition.state = condition.state, judgement.state
        (
            self._unhealthy.add
            if judgement.state is HealthState.UNHEALTHY
            else self._unhealthy.discard
        )(condition.peer.id)
        self._tell(
            _KINDS[judgement.state],
            condition.peer,
            judgement.reason or f"it is {before.value} no more",
        )
        self._metrics.turned(judgement.state)
        if judgement.state is HealthState.UNHEALTHY:
            self._fail(condition.peer, judgement.reason, now)

    def _predict(self, condition: PeerHealth, now: float) -> None:
        outlook = None if self._is_deaf else condition.foreseen(now)
        peer = condition.peer
        if outlook and self.predictions.predict(
            peer.id, reason=outlook.reason, lead=outlook.lead, now=now
        ):
            seconds = round(outlook.lead, 1)
            log.warning(
                "failure predicted", **_named(peer), reason=outlook.reason, lead_seconds=seconds
            )
            self._on_event(
                HealthEvent(
                    kind=Kind.PREDICTED, peer=peer, reason=outlook.reason, lead=outlook.lead
                )
            )

    def _gone(self, peer: Peer, now: float) -> None:
        """Let a peer go that is not connected any more; one that said nothing is checked first."""
        condition = self._conditions.get(peer.id)
        if self._has_left(peer):
            self.predictions.left(peer.id)
        elif condition is None or not condition.is_lost:
            self._of(peer).is_lost = True
            self.agenda.hurry(peer, now)

    def _end(self, condition: PeerHealth, failure: str | None, now: float) -> None:
        """Close the book on a peer that was lost, with what its check has shown."""
        peer = condition.peer
        self._tell(Kind.LOST, peer, "its registry still answers" if failure is None else failure)
        if failure is not None and condition.state is not HealthState.UNHEALTHY:
            self._fail(peer, failure, now)
        self._forget(peer.id)

    def _fail(self, peer: Peer, reason: str, now: float) -> None:
        self._tell_outcome(peer, self.predictions.failed(peer.id, reason=reason, now=now))

    def _forget(self, peer_id: str) -> None:
        self._conditions.pop(peer_id, None)
        self._unhealthy.discard(peer_id)
        self.agenda.forget(peer_id)

    def _tell_outcome(self, peer: Peer, outcome: ScoredPrediction) -> None:
        self._metrics.predicted(outcome.verdict, outcome.lead)
        if outcome.verdict is not PredictionOutcome.MISSED:
            log.info(
                "prediction ended",
                **_named(peer),
                outcome=outcome.verdict.value,
                reason=outcome.reason,
            )
        kind = _ENDS[outcome.verdict]
        self._on_event(HealthEvent(kind=kind, peer=peer, reason=outcome.reason, lead=outcome.lead))

    def _tell(self, kind: Kind, peer: Peer, reason: str) -> None:
        told = log.warning if kind is Kind.UNHEALTHY else log.info
        told(f"peer {kind.value}", **_named(peer), reason=reason)
        self._on_event(HealthEvent(kind=kind, peer=peer, reason=reason))


def _named(peer: Peer) -> dict[str, str]:
    return {"peer": peer.id, "addr": peer.authority}
