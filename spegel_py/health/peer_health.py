"""The health of one peer: the recorded events, and the weight factor that follows from them. Pure.

A peer's weight in the random choice is multiplied by its factor:

    0                                             while it is unhealthy, or in doubt
    the least of: checks, silence, trend, cost    otherwise

*Unhealthy*: checks failed in a row (active filter), or requests failed (passive filter).

*In doubt*: one request failed. The doubt ends with the next check that passes, so that the peer is
not tried for the next blob before. There are two special cases:

1. The peer promised a body and stalled: the doubt lasts DOUBT seconds, even if checks pass.
   Small responses pass where large ones do not (a wrong MTU, a full disk).
2. A peer that was asked first had not answered when another peer did: the doubt begins too,
   unless the slow peer answered something else within the last second. Nothing else shows a
   black hole beside quick peers.

Failed checks in a row, growing silence, a predicted failure and an unusual cost each take a part of
the factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from spegel_py.health import silence
from spegel_py.health.check_filters import ActiveCheck, PassiveCheck
from spegel_py.health.forecast import HORIZON, ExpectedFailure, Forecast
from spegel_py.health.silence import Heartbeats
from spegel_py.routing.base import Peer

DOUBT = 30.0
"""Seconds after which a doubt ends without a check: all checks are busy, or a stalled body forbids
that a check ends it."""

PROOF = 1.0
"""Seconds for which an answer proves that a peer lives: a peer that is only slow is then checked
once a second at most."""

BAD, FORESEEN = 0.25, 0.05
"""The factor of an unusual cost, and the least factor of a predicted failure."""


class HealthState(Enum):
    """How healthy a peer is; the value is the metric's label."""

    HEALTHY = "healthy"
    SUSPECTED = "suspected"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """When a peer counts as unhealthy.

    Args:
        passes, fails: checks in a row that turn a peer healthy, or unhealthy.
        timeout: seconds that a check may take.
        passive_fails, passive_fail_timeout: so many failed requests within so many seconds make a
            peer unhealthy.
        first_byte: seconds that a request may take to its first byte.
    """

    passes: int = 2
    fails: int = 3
    timeout: float = 3.0
    passive_fails: int = 3
    passive_fail_timeout: float = 300.0
    first_byte: float = 2.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The state of a peer, the factor for its weight (0 to 1), and the reason."""

    state: HealthState
    factor: float
    reason: str = ""


class PeerHealth:
    """Everything that checks, requests and heartbeats show about one peer.

    Times are monotonic seconds.
    """

    def __init__(self, *, peer: Peer, rules: HealthRules) -> None:
        self.peer = peer
        self._rules = rules
        self.active = ActiveCheck(passes=rules.passes, fails=rules.fails)
        self.passive = PassiveCheck(
            fails=rules.passive_fails, fail_timeout=rules.passive_fail_timeout
        )
        self.heartbeats = Heartbeats()
        self.left: float | None = None
        """Seconds until the router drops the peer because it answers no pings, None if it does."""
        self.refused: float | None = None
        """When other nodes last reported that the peer's registry does not answer them."""
        # A check is two tries, each of half its time.
        self.forecast = Forecast(check_limit=rules.timeout / 2, first_byte_limit=rules.first_byte)
        self.state = HealthState.HEALTHY
        self.is_lost = False
        self._doubt_until = -math.inf
        self._doubt = ""
        self._is_body_in_doubt = False
        self._proof = -math.inf
        self._failed_check = ""

    def __repr__(self) -> str:
        return f"<PeerHealth of {self.peer}: {self.state.value} {self.active!r} {self.passive!r}>"

    def checked(self, failure: str | None, seconds: float, now: float) -> None:
        """Record a check that took `seconds`; `failure` says why it failed, None if it passed."""
        self.active.record(passed=failure is None)
        if failure is None:
            self._proof = now
            if not self._is_body_in_doubt:
                self._doubt_until = -math.inf
            self.forecast.checked(seconds, now)
        else:
            self._failed_check = failure
            self._doubt = self._doubt or f"a check failed: {failure}"

    def answered(self, now: float, *, first_byte: float | None, pace: float | None) -> None:
        """Record a request that was answered in full."""
        self._doubt_until, self._proof, self._is_body_in_doubt = -math.inf, now, False
        self.passive.succeeded()
        self.forecast.answered(now, first_byte=first_byte, pace=pace)

    def failed(self, reason: str, now: float, *, is_body: bool = False) -> None:
        """Record a request that found no peer, broke or stalled.

        `is_body`: it failed after the peer had promised a body.
        """
        self._is_body_in_doubt = is_body
        self._doubt, self._doubt_until = f"a request failed: {reason}", now + DOUBT
        self.passive.failed(now)
        self.forecast.failed(now)

    def overtaken(self, now: float) -> bool:
        """Record that another peer answered first. Return True if a check is needed."""
        if now - self._proof < PROOF or now < self._doubt_until:
            return False
        self._doubt, self._doubt_until, self._is_body_in_doubt = "", now + DOUBT, False
        return True

    def needs_quick_check(self, now: float) -> bool:
        """Return True if the next check has to clear up a loss, a failed check or a doubt."""
        return self.is_lost or self.active.value < 0 or now < self._doubt_until

    def judge(self, now: float, *, is_deaf: bool = False) -> Judgement:
        """Return the judgement; with `is_deaf` this node hears no peer, so silence is ignored."""
        # Case 1: unhealthy by the active or the passive filter.
        if not self.active.is_healthy:
            return Judgement(
                HealthState.UNHEALTHY,
                0.0,
                f"{self._rules.fails} checks failed: {self._failed_check}",
            )
        if self.passive.is_unhealthy(now):
            reason = f"{self._rules.passive_fails} requests failed"
            return Judgement(HealthState.UNHEALTHY, 0.0, reason)
        # Case 2: in doubt for a known reason. A peer that was only overtaken has none, and is not
        # reported as suspected, though it gets no requests either.
        is_in_doubt = now < self._doubt_until
        if is_in_doubt and self._doubt:
            return Judgement(HealthState.SUSPECTED, 0.0, self._doubt)
        phi = 0.0 if is_deaf else self.phi(now)
        expected = self.forecast.expected_failure(now)
        factor = min(
            self.active.factor,
            silence.factor(phi),
            1.0 if expected is None else max(FORESEEN, expected.lead / HORIZON),
            BAD if self.forecast.is_bad(now) else 1.0,
            0.0 if is_in_doubt else 1.0,
        )
        # Case 3: silent, or about to fail by its trends.
        if phi >= silence.SUSPECT:
            return Judgement(HealthState.SUSPECTED, factor, "it is silent for too long")
        if expected is not None:
            return Judgement(HealthState.SUSPECTED, factor, expected.reason)
        # Case 4: healthy, perhaps with less weight.
        return Judgement(HealthState.HEALTHY, factor)

    def expected_failure(self, now: float) -> ExpectedFailure | None:
        """Return when the peer is expected to fail: by its trends, else by its silence."""
        if (expected := self.forecast.expected_failure(now)) is not None:
            return expected
        if self.phi(now) >= silence.SUSPECT:
            left = self.heartbeats.left(now) if self.left is None else self.left
            return ExpectedFailure(left, "it is silent for too long", is_silence=True)
        return None

    def phi(self, now: float) -> float:
        """Return the suspicion of the peer's silence: GRAVE if the router's pings suspect it."""
        return self.heartbeats.phi(now) if self.left is None else silence.GRAVE
