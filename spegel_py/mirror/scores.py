"""Results of asking peers, shared by all pulls: their scores, and the peers that are not asked now.

A peer's weight in the random choice is

    w = 1 / max(latency, 1 ms)  ×  1 / (1 + in flight + load)  ×  4 ^ -failures  ×  health  ×  zone

Latency is the moving average of the time to first byte, so latency × (1 + in flight) is about the
time that a further request would wait. Load is an estimate of other nodes' requests at the peer: 4
for every time it was busy (503), halved every 5 s. Failures are recent ones, each halved every 30 s
and by every success. So a peer twice as fast gets twice the requests.

Health, from 0 to 1, is the judgement of checks, heartbeats and network errors about the whole node
(see health.peer_health). A peer with health 0 is asked for nothing while another peer has the
content. Failures cover the rest: a peer whose registry passes every check may still give no
answers, or wrong ones. It keeps a small chance, since nothing else shows that it is well again.

Zone is 1, or OTHER_ZONE for a peer that names another zone than this node does. So traffic stays in
the zone while a peer there has the content, and goes to other zones as the peers there have more to
do, or fail.

Pure: times are passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spegel_py.health.health import Health
from spegel_py.mirror.quarantine import Quarantine
from spegel_py.outcomes import AttemptOutcome, PeerZone
from spegel_py.routing.base import Peer
from spegel_py.tools.bounded import BoundedDict

PRIOR_LATENCY = 0.005
"""Seconds to first byte assumed of an unknown peer: a good LAN peer's, so new peers are tried."""

FLOOR_LATENCY = 0.001
"""Seconds below which latencies count as equal: differences there are noise of the event loop."""

SMOOTHING = 0.3
"""Share of the newest sample in the moving average: a change shows after about three requests."""

HALF_LIFE = 30.0
"""Seconds in which a failure loses half its weight.

A restarted node is back in use within a minute or two.
"""

OTHER_ZONE = 1 / 8
"""Weight of a peer in another zone beside an equal one in this node's zone.

With as many peers in each of three zones, 80 % of the requests stay in the zone. A peer in the zone
with seven requests in flight is as good as an idle one elsewhere, so a crowd spreads out.
"""

BUSY_LOAD = 4.0
"""Requests of other nodes assumed at a peer that answers that it is busy."""

BUSY_HALF_LIFE = 5.0
"""Seconds in which that load is assumed to halve: a layer of 100 MB takes about as long."""

SHUN_BUSY = 2.0
"""Seconds for which a busy peer is not asked again for the same content.

With no other peer left the runtime then goes upstream rather than round in circles.
"""

SHUN_BROKEN = 30.0
"""Seconds for which a peer is not asked again for content that it broke off.

The runtime resumes at this mirror within milliseconds. With no other peer left it must get its 404
then, and go upstream.
"""

SHUN_WRONG = 600.0
"""Seconds for which a peer is not asked again for content of which it may have sent wrong bytes.

The same holds for content to which it gave a wrong digest or size.
"""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The end of one request.

    Args:
        outcome: how it ended.
        first_byte: seconds to the first byte, None without one.
        silence: seconds without an answer, of an abandoned request.
        pace: seconds of waiting for the peer with each MiB of the body, None for a short body.
    """

    outcome: AttemptOutcome
    first_byte: float | None = None
    silence: float = 0.0
    pace: float | None = None


@dataclass(slots=True)
class Score:
    """The results of one peer; `failures` and `load` are as of the time `at`."""

    latency: float = PRIOR_LATENCY
    in_flight: int = 0
    failures: float = 0.0
    load: float = 0.0
    at: float = 0.0

    def failures_at(self, now: float) -> float:
        """Return the failures, decayed until `now`."""
        return self.failures * math.pow(0.5, max(0.0, now - self.at) / HALF_LIFE)

    def load_at(self, now: float) -> float:
        """Return the load by other nodes, decayed until `now`."""
        return self.load * math.pow(0.5, max(0.0, now - self.at) / BUSY_HALF_LIFE)

    def weight(self, now: float) -> float:
        """Return the weight by the formula above, without health and zone."""
        waiting = 1 + self.in_flight + self.load_at(now)
        return math.pow(0.25, self.failures_at(now)) / (max(self.latency, FLOOR_LATENCY) * waiting)

    def record(self, result: AttemptResult, now: float) -> None:
        """Record the end of a request."""
        self.in_flight = max(0, self.in_flight - 1)
        latency = result.first_byte
        if latency is None and result.silence > self.latency:  # it would have taken longer still
            latency = result.silence
        if latency is not None:
            self.latency += SMOOTHING * (latency - self.latency)
        failures, load = self.failures_at(now), self.load_at(now)
        if result.outcome.is_failure:
            failures += 1
        elif result.outcome is AttemptOutcome.OK:
            failures /= 2
        elif result.outcome is AttemptOutcome.BUSY:
            load += BUSY_LOAD
        self.failures, self.load, self.at = failures, load, now


class Scores:
    """Scores of the `limit` peers used last, and the peers not to be asked now.

    Without a `health` all peers count as well. `zone` is this node's zone, empty if it names none.
    """

    def __init__(self, *, limit: int = 1024, health: Health | None = None, zone: str = "") -> None:
        self._health = health
        self._zone = zone
        self._scores: BoundedDict[Peer, Score] = BoundedDict(limit=limit)
        self._shunned: BoundedDict[tuple[str, Peer], float] = BoundedDict(limit=limit)
        self.quarantine = Quarantine()

    def __repr__(self) -> str:
        return f"<Scores of {len(self._scores)} peers, {len(self._shunned)} shunned>"

    def of(self, peer: Peer) -> Score:
        """Return the score of `peer`; an unknown peer gets a fresh one, which is not kept."""
        return self._scores.get(peer) or Score()

    def weight(self, peer: Peer, now: float) -> float:
        """Return the weight of `peer` by the formula above, without health."""
        other = self.zone_of(peer) is PeerZone.OTHER
        return self.of(peer).weight(now) * (OTHER_ZONE if other else 1.0)

    def zone_of(self, peer: Peer) -> PeerZone:
        """Return whether the peer is in this node's zone."""
        return PeerZone.of(peer.zone, own=self._zone)

    def trust(self, peer: Peer, now: float) -> float:
        """Return the peer's health, 0 to 1."""
        return 1.0 if self._health is None else self._health.weigh(peer, now)

    def excluded_count(self, now: float) -> int:
        """Return the number of peers that are not to be asked for anything now."""
        unhealthy = 0 if self._health is None else len(self._health.unhealthy)
        return self.quarantine.count(now) + unhealthy

    def begin(self, peer: Peer) -> None:
        """Record that a request to `peer` is under way."""
        self._scores[peer] = score = self.of(peer)
        score.in_flight += 1

    def end(self, peer: Peer, result: AttemptResult, now: float) -> None:
        """Record how a request to `peer` ended; every `begin` has one `end`."""
        if (score := self._scores.get(peer)) is not None:
            score.record(result, now)
        if self._health is None:
            return
        if result.outcome is AttemptOutcome.OK:
            self._health.answered(peer, now, first_byte=result.first_byte, pace=result.pace)
        elif result.outcome.is_network_error:
            is_body = result.outcome is AttemptOutcome.STALLED and result.first_byte is not None
            self._health.failed(peer, result.outcome.value, now, is_body=is_body)
        elif result.outcome is AttemptOutcome.ABANDONED and result.silence:
            self._health.overtaken(peer, now)

    def shun(self, key: str, peer: Peer, *, until: float) -> None:
        """Do not ask `peer` for this key until then."""
        self._shunned[key, peer] = until

    def is_shunned(self, key: str, peer: Peer, now: float) -> bool:
        """Return True if `peer` is not to be asked for this key, or for anything, now."""
        return self._shunned.get((key, peer), now) > now or self.quarantine.holds(peer.id, now)
