"""All that is known about one peer's health, and the judgement that follows from it. Pure.

A peer's factor, which its weight in the random choice is multiplied by, is

    0                                             while it is unhealthy, or in doubt
    the least of: checks, silence, trend, cost    otherwise

A peer is unhealthy after failed checks (trend) or failed requests (passive). It is in doubt after one failed request,
until it passes a check, so that what failed for one blob is not tried for the next. A peer that promised a body and
stalled stays in doubt for DOUBT seconds whatever its checks say: small answers pass where large ones do not (a wrong
MTU, a full disk). A peer that was overtaken before it had answered is in doubt too, unless it has just proved that it
lives: a black hole beside quick peers shows in nothing else. Checks that failed in a row, growing silence, a failure
that is foreseeable and a cost far out of the usual each take a part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spegel_py.health import heartbeats
from spegel_py.health.events import HealthState
from spegel_py.health.forecast import HORIZON, ExpectedFailure, Forecast
from spegel_py.health.heartbeats import Heartbeats
from spegel_py.health.passive import PassiveCheck
from spegel_py.health.trend import ActiveCheck, Thresholds
from spegel_py.routing.base import Peer

DOUBT = 30.0
"""Seconds after which a doubt ends without a check: all checks are busy, or none may end it."""

PROOF = 1.0
"""Seconds for which an answer proves that a peer lives: one that is only slow is then checked once a second at most."""

BAD, FORESEEN = 0.25, 0.05
"""What a cost far out of the usual leaves of a peer's weight, and a foreseeable failure at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """When a peer counts as unhealthy: `fails` checks in a row, or `passive_fails` requests within
    `passive_fail_timeout` seconds; `timeout` is the longest a check may take, `first_byte` a request.
    """

    passes: int = 2
    fails: int = 3
    timeout: float = 3.0
    passive_fails: int = 3
    passive_fail_timeout: float = 300.0
    first_byte: float = 2.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a peer is, what its weight is multiplied by (0 to 1), and why."""

    state: HealthState
    factor: float
    reason: str = ""


class PeerHealth:
    """What checks, requests and heartbeats have told of one peer. Times are monotonic seconds."""

    def __init__(self, *, peer: Peer, rules: HealthRules) -> None:
        self.peer = peer
        self._rules = rules
        self.trend = ActiveCheck(Thresholds(passes=rules.passes, fails=rules.fails))
        self.failures = PassiveCheck(
            fails=rules.passive_fails, fail_timeout=rules.passive_fail_timeout
        )
        self.heartbeats = Heartbeats()
        self.forecast = Forecast(check_limit=rules.timeout, first_byte_limit=rules.first_byte)
        self.state = HealthState.HEALTHY
        self.is_lost = False
        self._doubt_until = -math.inf
        self._doubt = ""
        self._is_body_in_doubt = False
        self._proof = -math.inf
        self._failed_check = ""

    def __repr__(self) -> str:
        return f"<Condition of {self.peer}: {self.state.value} {self.trend!r} {self.failures!r}>"

    def checked(self, failure: str | None, seconds: float, now: float) -> None:
        """Take in a check that took so long; `failure` says why it did not pass."""
        self.trend.record(passed=failure is None)
        if failure is None:
            self._proof = now
            if not self._is_body_in_doubt:
                self._doubt_until = -math.inf
            self.forecast.checked(seconds, now)
        else:
            self._failed_check = failure
            self._doubt = self._doubt or f"a check failed: {failure}"

    def answered(self, now: float, *, first_byte: float | None, pace: float | None) -> None:
        """Take in a request that was answered in full."""
        self._doubt_until, self._proof, self._is_body_in_doubt = -math.inf, now, False
        self.failures.succeeded()
        self.forecast.answered(now, first_byte=first_byte, pace=pace)

    def failed(self, reason: str, now: float, *, is_body: bool = False) -> None:
        """Take in a request that found nobody, or broke, or stalled; `is_body`: after the peer had promised a body."""
        self._is_body_in_doubt = is_body
        self._doubt, self._doubt_until = f"a request failed: {reason}", now + DOUBT
        self.failures.failed(now)
        self.forecast.failed(now)

    def overtaken(self, now: float) -> bool:
        """Take in that others were quicker before the peer had answered; say whether it is to be checked for that."""
        if now - self._proof < PROOF or now < self._doubt_until:
            return False
        self._doubt, self._doubt_until, self._is_body_in_doubt = "", now + DOUBT, False
        return True

    def is_pressing(self, now: float) -> bool:
        """Say whether something speaks against the peer that the next check is to clear up."""
        return self.is_lost or self.trend.value < 0 or now < self._doubt_until

    def judge(self, now: float, *, is_deaf: bool = False) -> Judgement:
        """Return what all of it comes to; `is_deaf` says that this node hears nobody, so that silence says nothing."""
        if not self.trend.is_healthy:
            return Judgement(
                HealthState.UNHEALTHY,
                0.0,
                f"{self._rules.fails} checks failed: {self._failed_check}",
            )
        if self.failures.is_unhealthy(now):
            return Judgement(
                HealthState.UNHEALTHY, 0.0, f"{self._rules.passive_fails} requests failed"
            )
        is_in_doubt = now < self._doubt_until
        if is_in_doubt and self._doubt:
            return Judgement(HealthState.SUSPECTED, 0.0, self._doubt)
        phi = 0.0 if is_deaf else self.heartbeats.phi(now)
        outlook = self.forecast.outlook(now)
        cost = BAD if self.forecast.is_bad(now) else 1.0
        factor = min(
            self.trend.factor,
            heartbeats.factor(phi),
            _of_outlook(outlook),
            cost,
            0.0 if is_in_doubt else 1.0,
        )
        if phi >= heartbeats.SUSPECT:
            return Judgement(HealthState.SUSPECTED, factor, "it is silent for too long")
        if outlook is not None:
            return Judgement(HealthState.SUSPECTED, factor, outlook.reason)
        return Judgement(HealthState.HEALTHY, factor)

    def foreseen(self, now: float) -> ExpectedFailure | None:
        """Return when the peer is expected to fail: by its trends, else by its silence."""
        if (outlook := self.forecast.outlook(now)) is not None:
            return outlook
        if self.heartbeats.phi(now) >= heartbeats.SUSPECT:
            return ExpectedFailure(self.heartbeats.left(now), "it is silent for too long")
        return None


def _of_outlook(outlook: ExpectedFailure | None) -> float:
    return 1.0 if outlook is None else max(FORESEEN, outlook.lead / HORIZON)
