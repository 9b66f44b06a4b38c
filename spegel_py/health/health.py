"""The health of all peers, shared by all pulls: events go in, a weight factor comes out. Pure.

A peer is known by its id: a new address does not make it healthier. A peer that leaves and comes
back starts without a history.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from random import Random

import structlog

from spegel_py.health import silence
from spegel_py.health.check_scheduler import CheckScheduler
from spegel_py.health.metrics import HealthMetrics
from spegel_py.health.peer_health import HealthRules, HealthState, PeerHealth
from spegel_py.health.predictions import PredictionOutcome, Predictions, ScoredPrediction
from spegel_py.routing.base import Member, Peer

log = structlog.get_logger(__name__)

AGAIN = 0.5
"""Seconds until a check is repeated whose result contradicts the peer's present state. The second
and third check then come within seconds, not intervals."""

SPREAD = 2.0
"""Seconds over which nodes spread the checks of a registry that another node reported."""

TOLD = 60.0
"""Seconds after a report of a peer in which this node tells nobody the same."""

LIMIT = 4096
"""Peers remembered: the latest ones that were heard from or asked."""


class Health:
    """How far each peer is to be trusted. Times are monotonic seconds.

    Args:
        left: returns True for a peer that said goodbye and is not back. Checks and requests that
            were still under way to such a peer say nothing about its health.
        report: is called with the id of a peer that failed its checks, and that no other node has
            reported yet.

    `scheduler` decides which peers the monitor checks.
    """

    def __init__(
        self,
        *,
        rules: HealthRules,
        interval: float,
        metrics: HealthMetrics,
        random: Random,
        left: Callable[[str], bool] = lambda peer_id: False,
        report: Callable[[str], None] = lambda peer_id: None,
    ) -> None:
        self._rules = rules
        self._metrics = metrics
        self._left = left
        self._report = report
        self._random = random
        self._peers: OrderedDict[str, PeerHealth] = OrderedDict()
        self._members: dict[str, Peer] = {}
        self._unhealthy: set[str] = set()
        self._is_deaf = False
        self.predictions = Predictions()
        self.scheduler = CheckScheduler(interval=interval, random=random)

    def __repr__(self) -> str:
        return f"<Health {self.counts()} {self.scheduler!r}>"

    # Called by the mirror

    def weigh(self, peer: Peer, now: float) -> float:
        """Return the factor for the peer's weight, 0 to 1, and record that the peer is in use."""
        self.scheduler.record_use(peer, now)
        health = self._peers.get(peer.id)
        return health.judge(now, is_deaf=self._is_deaf).factor if health else 1.0

    def answered(
        self, peer: Peer, now: float, *, first_byte: float | None = None, pace: float | None = None
    ) -> None:
        """Record a successful request.

        Args:
            first_byte: seconds to the first byte.
            pace: seconds of waiting per MiB of the body.
        """
        known = self._peers.get(peer.id)
        if known is not None and known.is_lost:
            self._close_lost(known, None, now)
        health = self._get(peer)
        health.answered(now, first_byte=first_byte, pace=pace)
        self.scheduler.record_answer(peer, now)
        self._review(health, now)

    def failed(self, peer: Peer, reason: str, now: float, *, is_body: bool = False) -> None:
        """Record a network error of a request, `is_body` of its body, and check the peer."""
        if self._forget_if_left(peer):
            return
        health = self._get(peer)
        health.failed(reason, now, is_body=is_body)
        self.scheduler.check_soon(peer, now)
        self._review(health, now)

    def overtaken(self, peer: Peer, now: float) -> None:
        """Record that another peer answered a request first."""
        if self._forget_if_left(peer):
            return
        if self._get(peer).overtaken(now):
            self.scheduler.check_soon(peer, now)

    @property
    def unhealthy(self) -> Collection[str]:
        """The ids of the peers that get no requests while there are others."""
        return self._unhealthy

    # Called by the monitor

    def checked(self, peer: Peer, failure: str | None, seconds: float, now: float) -> None:
        """Record a check that took `seconds`; `failure` says why it failed, None if it passed."""
        if self._forget_if_left(peer):
            return
        health = self._peers.get(peer.id)
        if health is not None and health.is_lost:
            self._close_lost(health, failure, now)
            return
        health = self._get(peer)
        was_healthy = health.active.is_healthy
        health.checked(failure, seconds, now)
        is_healthy = health.active.is_healthy
        if was_healthy and not is_healthy and now - (health.refused or -TOLD) >= TOLD:
            self._report(peer.id)
        self.scheduler.prioritise(peer, on=failure is not None or not is_healthy)
        if is_healthy == (failure is not None):
            self.scheduler.check_soon(peer, now, after=AGAIN)
        self._review(health, now)

    def observe(self, members: Iterable[Member], now: float) -> None:
        """Record the connected peers, and when each was heard from."""
        present = {member.id: member for member in members}
        for peer in [peer for name, peer in self._members.items() if name not in present]:
            self._disconnected(peer, now)
        self._members = {
            name: member.peer for name, member in present.items() if member.peer is not None
        }
        self.scheduler.set_members(self._members.values(), now)
        for name, peer in self._members.items():
            if (health := self._peers.get(name)) is not None and health.is_lost:
                self._forget(name)  # it is back before it could be checked
            self._listen(self._get(peer), present[name], now)
        self._update_deafness(now)
        self.review(now)

    def _listen(self, health: PeerHealth, member: Member, now: float) -> None:
        """Record when a peer was heard from, and what other nodes report about it."""
        health.left = member.left
        if member.heard is not None and member.interval is not None:
            health.heartbeats.heard(now - member.heard, member.interval)
        else:
            health.heartbeats.stop()
        if member.refused is not None and member.refused != health.refused:
            health.refused = member.refused
            after = self._random.uniform(0, SPREAD)
            self.scheduler.check_soon(health.peer, now, after=after)

    def needs_quick_check(self, peer: Peer, now: float) -> bool:
        """Return True if the peer's next check should have a short timeout."""
        health = self._peers.get(peer.id)
        return health is not None and health.needs_quick_check(now)

    def excuse(self, seconds: float) -> None:
        """Ignore the peers' silence while this node itself stood still for `seconds`."""
        for health in self._peers.values():
            health.heartbeats.excuse(seconds)

    def review(self, now: float) -> None:
        """Record the changes of state that time alone causes, and score overdue predictions."""
        for health in list(self._peers.values()):
            self._review(health, now)
        for score in self.predictions.overdue(now):
            if (known := self._peers.get(score.peer)) is not None:
                self._record_score(known.peer, score)

    # Called by the metrics, the supervision and the state page

    def reasons(self, now: float) -> dict[str, str]:
        """Return for each unhealthy peer's id the reason."""
        return {
            name: self._peers[name].judge(now, is_deaf=self._is_deaf).reason
            for name in self._unhealthy
        }

    def predicted(self) -> dict[str, str]:
        """Return for each peer that is about to fail, by id, why and how soon."""
        return {name: str(prediction) for name, prediction in self.predictions.open().items()}

    def declining(self) -> dict[str, str]:
        """Return those of them that still answer, worse and worse."""
        return {
            name: str(prediction)
            for name, prediction in self.predictions.open().items()
            if not prediction.is_silence
        }

    def counts(self) -> Counter[str]:
        """Return the number of peers in each state."""
        return Counter(health.state.value for health in self._peers.values())

    def state(self, peer_id: str) -> HealthState:
        """Return the state of a peer; healthy if nothing is known about it."""
        health = self._peers.get(peer_id)
        return health.state if health is not None else HealthState.HEALTHY

    # Inside

    def _get(self, peer: Peer) -> PeerHealth:
        health = self._peers.get(peer.id)
        if health is None:
            health = self._peers[peer.id] = PeerHealth(peer=peer, rules=self._rules)
        health.peer = peer
        self._peers.move_to_end(peer.id)
        if len(self._peers) > LIMIT:
            self._forget(next(iter(self._peers)))
        return health

    def _forget_if_left(self, peer: Peer) -> bool:
        """Forget a peer that said goodbye. Return True if it did."""
        if not self._left(peer.id):
            return False
        self._forget(peer.id)
        return True

    def _forget(self, peer_id: str) -> None:
        self._peers.pop(peer_id, None)
        self._unhealthy.discard(peer_id)
        self.scheduler.forget(peer_id)

    def _update_deafness(self, now: float) -> None:
        """This node is deaf if all peers are silent at once: then the fault is its own."""
        phis = [self._peers[name].phi(now) for name in self._members if name in self._peers]
        self._is_deaf = len(phis) > 1 and min(phis) >= silence.SUSPECT

    def _review(self, health: PeerHealth, now: float) -> None:
        """Predict a peer's failure, and record a change of its state."""
        if health.is_lost:
            return
        judgement = health.judge(now, is_deaf=self._is_deaf)
        if judgement.state is not HealthState.UNHEALTHY:
            self._predict(health, now)
        if judgement.state is health.state:
            return
        before, health.state = health.state, judgement.state
        peer, reason = health.peer, judgement.reason or f"it is {before.value} no more"
        self._metrics.turned(judgement.state)
        self._unhealthy.discard(peer.id)
        match judgement.state:
            case HealthState.HEALTHY:
                log.info("peer healthy", **_named(peer), reason=reason)
            case HealthState.SUSPECTED:
                log.info("peer suspected", **_named(peer), reason=reason)
            case HealthState.UNHEALTHY:
                log.warning("peer unhealthy", **_named(peer), reason=reason)
                self._unhealthy.add(peer.id)
                self._score_failure(peer, reason, now)

    def _predict(self, health: PeerHealth, now: float) -> None:
        expected = None if self._is_deaf else health.expected_failure(now)
        if expected and self.predictions.predict(
            health.peer.id,
            reason=expected.reason,
            lead=expected.lead,
            now=now,
            is_silence=expected.is_silence,
        ):
            log.warning(
                "failure predicted",
                **_named(health.peer),
                reason=expected.reason,
                lead_seconds=round(expected.lead, 1),
            )

    def _disconnected(self, peer: Peer, now: float) -> None:
        """Forget a peer that said goodbye; check any other peer before it is forgotten."""
        health = self._peers.get(peer.id)
        if self._forget_if_left(peer):
            self.predictions.left(peer.id)
        elif health is None or not health.is_lost:
            self._get(peer).is_lost = True
            self.scheduler.check_soon(peer, now)

    def _close_lost(self, health: PeerHealth, failure: str | None, now: float) -> None:
        """Forget a lost peer once a check or a request has shown whether its registry answers."""
        peer = health.peer
        reason = "its registry still answers" if failure is None else failure
        log.info("peer lost", **_named(peer), reason=reason)
        if failure is not None and health.state is not HealthState.UNHEALTHY:
            self._score_failure(peer, failure, now)
        self._forget(peer.id)

    def _score_failure(self, peer: Peer, reason: str, now: float) -> None:
        self._record_score(peer, self.predictions.failed(peer.id, reason=reason, now=now))

    def _record_score(self, peer: Peer, score: ScoredPrediction) -> None:
        self._metrics.predicted(score.outcome, score.lead)
        if score.outcome is not PredictionOutcome.MISSED:
            outcome = score.outcome.value
            log.info("prediction ended", **_named(peer), outcome=outcome, reason=score.reason)


def _named(peer: Peer) -> dict[str, str]:
    return {"peer": peer.id, "addr": peer.authority}
