"""The signals of a node, and the conditions that follow from these signals.

All signals are read once a second, on the event loop: reading them must neither block nor raise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spegel_py.routing.base import Life
from spegel_py.supervision import conditions
from spegel_py.supervision.conditions import Condition, Observation
from spegel_py.supervision.history import DiskFault
from spegel_py.supervision.isolation import Isolation, PeerTracker

MAX_LOST = 8
"""Lost peers with an alert of their own; more lost peers are one partition."""

SETTLED_AFTER = 10.0
"""Seconds after a start of the libp2p side from which a missing peer counts as lost. Before, all
peers connect anew."""

MAX_SUBJECTS = 32
"""Peers or images with an alert for one condition, if another part decides about it."""

JUMP = 2.0
"""Seconds by which the wall clock differs from the monotonic one between two readings if it was
set. Slewing makes less than a millisecond in a second."""

WINDOW = 30.0
"""Seconds over which the outcomes of pulls are counted."""

MIN_ANSWERS = 5
"""Answers in the window below which pulls are not judged."""

SHARE = 0.5
"""Part of the answers in the window that are bad when pulls are failing."""

GOOD, BAD = ("hit",), ("cut", "error")
"""Outcomes as PullMetrics counts them. Other misses are neither good nor bad: the runtime fetches
from the registry at once."""

UNKNOWN = float("inf")


def _nobody() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSignals:
    """The functions that read the state of a node. Peers are peer ids, times monotonic seconds.

    Args:
        connected: returns the peers that are connected.
        goodbyes: returns the peers that said goodbye.
        expects_peers: returns True if there ought to be peers.
        life: returns the life of the libp2p side.
        ping: returns when the libp2p side has answered.
        nothing_shared: returns why no content of this node can be shared; None if it can.
        not_preheated: returns why the pre-heat list keeps the node from being ready; None if it
            does not.
        containerd_away: returns since when the daemon is away; None if it answers or is not used.
        containerd_error: returns the daemon's last failure while it is away.
        pulls: returns the number of answers to clients by outcome, as counters.
        unhealthy: returns the peers that fail their checks, each with the reason.
        predicted: returns the peers that are about to fail, each with the reason.
        twins: returns the nodes that share an identity, each with a sentence that names them.
        floor_missed: returns the images that have been below their floor for long, each with the
            reasons.
        draining: returns the causes for which this node drains, each with a sentence.
        preheat_faults: returns the images of the pre-heat list that cannot be had, or the list
            itself, each with the reason.
        secret_faults: returns the files of keys and tokens that cannot be used, or that everybody
            can read, each with the fault.
        tag_conflicts: returns the tags about which nodes contradict each other, each with both
            sides.
        folders: returns the folders whose disks must not be full.
    """

    connected: Callable[[], Collection[str]]
    goodbyes: Callable[[], Collection[str]]
    expects_peers: Callable[[], bool]
    life: Callable[[], Life]
    ping: Callable[[], Awaitable[None]]
    nothing_shared: Callable[[], str | None] = lambda: None
    not_preheated: Callable[[], str | None] = lambda: None
    containerd_away: Callable[[], float | None] = lambda: None
    containerd_error: Callable[[], str] = str
    pulls: Callable[[], Mapping[str, int]] = dict
    unhealthy: Callable[[], Mapping[str, str]] = _nobody
    predicted: Callable[[], Mapping[str, str]] = _nobody
    twins: Callable[[], Mapping[str, str]] = _nobody
    floor_missed: Callable[[], Mapping[str, str]] = _nobody
    draining: Callable[[], Mapping[str, str]] = _nobody
    preheat_faults: Callable[[], Mapping[str, str]] = _nobody
    secret_faults: Callable[[], Mapping[str, str]] = _nobody
    tag_conflicts: Callable[[], Mapping[str, str]] = _nobody
    folders: Callable[[], Collection[Path]] = tuple


class ClockMonitor:
    """Detects that the wall clock was set, by comparing it with the monotonic clock. Pure."""

    def __init__(self, *, wall: float, monotonic: float) -> None:
        self._ahead = wall - monotonic

    def __repr__(self) -> str:
        return f"<ClockMonitor ahead={self._ahead:.3f}>"

    def jumped(self, *, wall: float, monotonic: float) -> float | None:
        """Return the seconds by which the clock was set since the last call, None if it was not."""
        before, self._ahead = self._ahead, wall - monotonic
        change = self._ahead - before
        return change if abs(change) >= JUMP else None


class PullFailures:
    """Whether clients' pulls fail, by their outcomes in the last WINDOW seconds. Pure.

    A single body that was cut is not a failed pull: containerd goes on elsewhere, at the same byte.
    The death of peers does not explain that half of all answers are cut, or errors of this node.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int, int]] = deque()

    def __repr__(self) -> str:
        return f"<PullFailures over {len(self._readings)} readings>"

    def failing(self, outcomes: Mapping[str, int], now: float) -> str | None:
        """Record the counters; return the failure in words, None if pulls do not fail."""
        self._readings.append((now, _sum(outcomes, GOOD), _sum(outcomes, BAD)))
        while len(self._readings) > 1 and self._readings[1][0] <= now - WINDOW:
            self._readings.popleft()
        (_, good_then, bad_then), (_, good_now, bad_now) = self._readings[0], self._readings[-1]
        good, bad = good_now - good_then, bad_now - bad_then
        if good + bad < MIN_ANSWERS or bad < SHARE * (good + bad):
            return None
        return f"{bad} of {good + bad} answers in {WINDOW:.0f} s were cut short or errors"


def _sum(outcomes: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(outcomes.get(name, 0) for name in names)


class Observer:
    """Turns signals into observations. It remembers what a single reading does not show.

    Pure, but for the signals.
    """

    def __init__(
        self,
        *,
        signals: NodeSignals,
        isolation: Isolation,
        peers: PeerTracker,
        wall: float,
        now: float,
    ) -> None:
        self._signals = signals
        self._isolation = isolation
        self._peers = peers
        self._clock = ClockMonitor(wall=wall, monotonic=now)
        self._pulls = PullFailures()
        self._last_life = signals.life().number
        self._since: dict[tuple[str, str], float] = {}

    def __repr__(self) -> str:
        return f"<Observer {self._isolation!r} {self._peers!r}>"

    def observe(
        self,
        *,
        now: float,
        wall: float,
        hung_since: float | None,
        stalled_since: float | None,
        faults: Collection[DiskFault],
    ) -> list[Observation]:
        """Return all conditions that are present now.

        Args:
            now: monotonic time.
            wall: Unix time.
            hung_since: when the libp2p side stopped answering pings, None if it answers.
            stalled_since: when a stall of the event loop began that has not been reported yet.
            faults: the faults that the disk thread found.
        """
        observations = [
            *self._peer_conditions(),
            *self._router_conditions(hung_since),
            *self._node_conditions(now, wall, stalled_since),
            *self._disk_conditions(faults),
            *self._per_subject(conditions.PEER_UNHEALTHY, self._signals.unhealthy()),
            *self._per_subject(conditions.PEER_PREDICTED, self._signals.predicted()),
            *self._per_subject(conditions.IDENTITY_SHARED, self._signals.twins(), source="router"),
            *self._per_subject(
                conditions.FLOOR_MISSED, self._signals.floor_missed(), source="replicas"
            ),
            *self._per_subject(conditions.DRAINING, self._signals.draining(), source="replicas"),
            *self._per_subject(
                conditions.PREHEAT_FAILED, self._signals.preheat_faults(), source="preheat"
            ),
            *self._per_subject(
                conditions.SECRET_FILE_BAD, self._signals.secret_faults(), source="secrets"
            ),
            *self._per_subject(
                conditions.TAG_CONFLICT, self._signals.tag_conflicts(), source="tags"
            ),
        ]
        return self._with_times(observations, now)

    def _peer_conditions(self) -> list[Observation]:
        found = []
        if (since := self._isolation.cut_off_since()) is not None:
            found.append(_observation(conditions.ISOLATED, "isolation", since=since))
        if (since := self._peers.partitioned_since()) is not None:
            lost = len(self._peers.lost())
            detail = f"{lost} of {self._peers.known} peers went without a goodbye"
            found.append(_observation(conditions.PARTITIONED, "census", since=since, detail=detail))
        for peer, at in list(self._peers.lost().items())[:MAX_LOST]:
            found.append(_observation(conditions.PEER_LOST, "census", subject=peer, since=at))
        return found

    def _router_conditions(self, hung_since: float | None) -> list[Observation]:
        life = self._signals.life()
        before, self._last_life = self._last_life, life.number
        # Case 1: it hangs, until it answers a ping, possibly in a later life.
        if hung_since is not None:
            return [_observation(conditions.ROUTER_HUNG, "ping", since=hung_since)]
        # Case 2: it died, and is down, or up again in a new life since the last reading.
        if life.died is not None and (not life.is_up or life.number != before):
            since, cause = life.died, life.cause
            return [_observation(conditions.ROUTER_DOWN, "router", since=since, detail=cause)]
        return []

    def _node_conditions(
        self, now: float, wall: float, stalled_since: float | None
    ) -> list[Observation]:
        found = []
        if stalled_since is not None:
            found.append(_observation(conditions.LOOP_STALLED, "loop", since=stalled_since))
        if (away := self._signals.containerd_away()) is not None:
            detail = self._signals.containerd_error()
            found.append(
                _observation(conditions.CONTAINERD_AWAY, "watcher", since=away, detail=detail)
            )
        if why := self._pulls.failing(self._signals.pulls(), now):
            found.append(_observation(conditions.PULLS_FAILING, "pulls", detail=why))
        if (jump := self._clock.jumped(wall=wall, monotonic=now)) is not None:
            found.append(_observation(conditions.CLOCK_JUMPED, "clock", detail=f"by {jump:+.1f} s"))
        return found

    def _disk_conditions(self, faults: Collection[DiskFault]) -> list[Observation]:
        return [
            _observation(each.condition, "disk", subject=str(each.folder), detail=each.detail)
            for each in faults
        ]

    def _per_subject(
        self, condition: Condition, subjects: Mapping[str, str], *, source: str = "health"
    ) -> list[Observation]:
        chosen = sorted(subjects.items())[:MAX_SUBJECTS]
        return [_observation(condition, source, subject=one, detail=why) for one, why in chosen]

    def _with_times(self, found: list[Observation], now: float) -> list[Observation]:
        """Fill in a missing `since` with the time of the first observation."""
        keys = {(one.condition.name, one.subject) for one in found}
        self._since = {key: at for key, at in self._since.items() if key in keys}
        return [one if one.since < UNKNOWN else self._with_time(one, now) for one in found]

    def _with_time(self, one: Observation, now: float) -> Observation:
        return replace(one, since=self._since.setdefault((one.condition.name, one.subject), now))


def _observation(
    condition: Condition,
    source: str,
    *,
    subject: str = "",
    since: float = UNKNOWN,
    detail: str = "",
) -> Observation:
    return Observation(
        condition=condition, since=since, source=source, subject=subject, detail=detail
    )
