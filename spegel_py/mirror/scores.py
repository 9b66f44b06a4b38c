"""What is known about peers from asking them, shared by all pulls; pure: time is passed in.

A peer's weight in the random choice is

    w = 1 / max(latency, 1 ms)  ×  1 / (1 + in flight + load)  ×  4 ^ -failures  ×  health

where latency is the moving average of its time to first byte, so that latency × (1 + in flight) is about
what a further request would wait; load is what others ask of it, as far as it said so: 4 for every time it
was busy (503), halved every 5 s; and failures are those of late, each halved every 30 s and by every
success; so a peer twice as fast gets twice the requests. Health, from 0 to 1, is what checks, heartbeats and network
errors say of the whole node (see health.condition): a peer where it is 0 is asked for nothing while any other has the
content. Failures are what it leaves open: one whose registry passes every check may still give no, or wrong, answers,
and keeps a small chance, since nothing else tells that it is well again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spegel_py.health.health import Health
from spegel_py.mirror.quarantine import Quarantine
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer
from spegel_py.tools.bounded import BoundedDict

PRIOR_LATENCY = 0.005
"""Seconds to first byte assumed of an unknown peer: what a good one takes in a LAN, so that newcomers are tried."""

FLOOR_LATENCY = 0.001
"""Seconds below which latencies count as equal: differences there are noise of the event loop."""

SMOOTHING = 0.3
"""Share of the newest sample in the moving average: a change shows after about three requests."""

HALF_LIFE = 30.0
"""Seconds in which a failure loses half its weight: a restarted node is back in use within a minute or two."""

BUSY_LOAD = 4.0
"""Requests of others that are assumed at a peer which says that it is busy."""

BUSY_HALF_LIFE = 5.0
"""Seconds in which half of that load is assumed to be done: a layer of 100 MB takes about as long."""

SHUN_BUSY = 2.0
"""Seconds for which a busy peer is not asked again for the same content: with nobody else left the runtime goes
upstream rather than round in circles."""

SHUN_BROKEN = 30.0
"""Seconds for which a peer is not asked again for content it broke off in the middle: the runtime resumes at
this mirror within milliseconds, and with nobody else left it must get its 404 then, and go upstream."""

SHUN_WRONG = 600.0
"""Seconds for which a peer is not asked again for content of which it may have sent wrong bytes, or said it would."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one request: its result and the seconds to the first byte, None if there was none.

    `silence` is of one that was abandoned: for how many seconds it had not answered. `pace` is for how many seconds
    the peer was waited for with each MiB of the body, None where that was too short to tell.
    """

    result: AttemptOutcome
    first_byte: float | None = None
    silence: float = 0.0
    pace: float | None = None


@dataclass(slots=True)
class Score:
    """What is known about one peer; `failures` and `load` as of `at`."""

    latency: float = PRIOR_LATENCY
    in_flight: int = 0
    failures: float = 0.0
    load: float = 0.0
    at: float = 0.0

    def failures_at(self, now: float) -> float:
        """Return the failures, decayed until `now`."""
        return self.failures * math.pow(0.5, max(0.0, now - self.at) / HALF_LIFE)

    def load_at(self, now: float) -> float:
        """Return the load by others, decayed until `now`."""
        return self.load * math.pow(0.5, max(0.0, now - self.at) / BUSY_HALF_LIFE)

    def weight(self, now: float) -> float:
        """Return the formula above."""
        waiting = 1 + self.in_flight + self.load_at(now)
        return math.pow(0.25, self.failures_at(now)) / (max(self.latency, FLOOR_LATENCY) * waiting)

    def learn(self, outcome: Outcome, now: float) -> None:
        """Take in the end of a request."""
        self.in_flight = max(0, self.in_flight - 1)
        seen = outcome.first_byte
        if seen is None and outcome.silence > self.latency:  # it would have taken longer still
            seen = outcome.silence
        if seen is not None:
            self.latency += SMOOTHING * (seen - self.latency)
        failures, load = self.failures_at(now), self.load_at(now)
        if outcome.result.is_failure:
            failures += 1
        elif outcome.result is AttemptOutcome.OK:
            failures /= 2
        elif outcome.result is AttemptOutcome.BUSY:
            load += BUSY_LOAD
        self.failures, self.load, self.at = failures, load, now


class Scores:
    """Scores of the `limit` peers used last, and for a while who is not to be asked, for which content or at all.

    Without a `health` everybody is held to be well.
    """

    def __init__(self, *, limit: int = 1024, health: Health | None = None) -> None:
        self._health = health
        self._scores: BoundedDict[Peer, Score] = BoundedDict(limit=limit)
        self._shunned: BoundedDict[tuple[str, Peer], float] = BoundedDict(limit=limit)
        self.quarantine = Quarantine()

    def __repr__(self) -> str:
        return f"<Scores of {len(self._scores)} peers, {len(self._shunned)} shunned>"

    def of(self, peer: Peer) -> Score:
        """Return what is known about `peer`, a fresh score if nothing is; it is not remembered by looking."""
        return self._scores.get(peer) or Score()

    def trust(self, peer: Peer, now: float) -> float:
        """Return the peer's health, 0 to 1."""
        return 1.0 if self._health is None else self._health.weigh(peer, now)

    def left_out(self, now: float) -> int:
        """Return how many peers are not to be asked now, for whatever content."""
        return self.quarantine.count(now) + (
            0 if self._health is None else len(self._health.unhealthy)
        )

    def begin(self, peer: Peer) -> None:
        """Note that a request to `peer` is under way."""
        self._scores[peer] = score = self.of(peer)
        score.in_flight += 1

    def end(self, peer: Peer, outcome: Outcome, now: float) -> None:
        """Note how a request to `peer` ended; every `begin` has one."""
        if (score := self._scores.get(peer)) is not None:
            score.learn(outcome, now)
        if self._health is None:
            return
        if outcome.result is AttemptOutcome.OK:
            self._health.answered(peer, now, first_byte=outcome.first_byte, pace=outcome.pace)
        elif outcome.result.is_network_error:
            is_body = outcome.result is AttemptOutcome.STALLED and outcome.first_byte is not None
            self._health.failed(peer, outcome.result.value, now, is_body=is_body)
        elif outcome.result is AttemptOutcome.ABANDONED and outcome.silence:
            self._health.overtaken(peer, now)

    def shun(self, key: str, peer: Peer, *, until: float) -> None:
        """Do not ask `peer` for this key until then."""
        self._shunned[key, peer] = until

    def is_shunned(self, key: str, peer: Peer, now: float) -> bool:
        """Say whether `peer` is not to be asked for this key, or for anything, now."""
        return self._shunned.get((key, peer), now) > now or self.quarantine.holds(peer.id, now)
