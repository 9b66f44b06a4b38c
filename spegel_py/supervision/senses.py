"""What supervision sees of a node, as callables that the node gives it, and the conditions that it makes of them.

Everything here is asked once a second, on the event loop: it must neither block nor raise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spegel_py.routing.base import Life
from spegel_py.supervision import conditions
from spegel_py.supervision.census import Census
from spegel_py.supervision.clock import ClockWatch
from spegel_py.supervision.conditions import Condition, Observation
from spegel_py.supervision.disk import Fault
from spegel_py.supervision.isolation import Isolation
from spegel_py.supervision.pulls import Pulls

MAX_LOST = 8
"""Lost peers that get an alert of their own; more than that are one partition."""
SETTLED_AFTER = 10.0
"""Seconds of the libp2p side's life after which a peer that is not there is lost: before, they all come anew."""
MAX_SUBJECTS = 32
"""Peers with an alert of one kind, of those that others judge."""


def _nobody() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """What can be asked. Peers are peer ids; times are monotonic seconds.

    `connected`, `goodbyes`: who is there, and who left in good order. `expects_peers`: whether there ought to be
    somebody. `life`, `ping`: of the libp2p side; a ping returns when it has answered. `containerd_away`: since when
    the daemon is away (None: it is there, or is not used). `pulls`: answers to clients by outcome, as counters.
    `unhealthy`, `predicted`: peers that fail their checks, or are about to, each with the reason. `twins`: nodes that
    share an identity, each with a sentence that says where. `folders`: those on disks that must not be full.
    """

    connected: Callable[[], Collection[str]]
    goodbyes: Callable[[], Collection[str]]
    expects_peers: Callable[[], bool]
    life: Callable[[], Life]
    ping: Callable[[], Awaitable[None]]
    containerd_away: Callable[[], float | None] = lambda: None
    pulls: Callable[[], Mapping[str, int]] = dict
    unhealthy: Callable[[], Mapping[str, str]] = _nobody
    predicted: Callable[[], Mapping[str, str]] = _nobody
    twins: Callable[[], Mapping[str, str]] = _nobody
    folders: Collection[Path] = field(default_factory=tuple)


class Watch:
    """Makes observations of what is seen; it remembers what one look alone does not tell. Pure but for the senses."""

    def __init__(
        self, *, senses: Senses, isolation: Isolation, census: Census, wall: float, now: float
    ) -> None:
        self._senses = senses
        self._isolation = isolation
        self._census = census
        self._clock = ClockWatch(wall=wall, monotonic=now)
        self._pulls = Pulls()
        self._life_seen = senses.life().number
        self._since: dict[tuple[str, str], float] = {}

    def __repr__(self) -> str:
        return f"<Watch {self._isolation!r} {self._census!r}>"

    def look(
        self,
        *,
        now: float,
        wall: float,
        hung_since: float | None,
        stalled_since: float | None,
        faults: Collection[Fault],
    ) -> list[Observation]:
        """Return all that is wrong now. Given are what cannot be asked for at once: pings, the loop, the disks."""
        seen = [
            *self._of_peers(),
            *self._of_router(hung_since),
            *self._of_node(now, wall, stalled_since),
            *self._of_disks(faults),
            *self._judged(conditions.PEER_UNHEALTHY, self._senses.unhealthy()),
            *self._judged(conditions.PEER_PREDICTED, self._senses.predicted()),
            *self._judged(conditions.IDENTITY_SHARED, self._senses.twins(), source="router"),
        ]
        return self._dated(seen, now)

    def _of_peers(self) -> list[Observation]:
        seen = []
        if (since := self._isolation.cut_off_since()) is not None:
            seen.append(_seen(conditions.ISOLATED, "isolation", since=since))
        if (since := self._census.partitioned_since()) is not None:
            lost = len(self._census.lost())
            detail = f"{lost} of {self._census.known} peers went without a goodbye"
            seen.append(_seen(conditions.PARTITIONED, "census", since=since, detail=detail))
        for peer, at in list(self._census.lost().items())[:MAX_LOST]:
            seen.append(_seen(conditions.PEER_LOST, "census", subject=peer, since=at))
        return seen

    def _of_router(self, hung_since: float | None) -> list[Observation]:
        life = self._senses.life()
        before, self._life_seen = self._life_seen, life.number
        if hung_since is not None:  # until a ping is answered, by a later life it may be
            return [_seen(conditions.ROUTER_HUNG, "ping", since=hung_since)]
        if life.died is not None and (
            not life.is_up or life.number != before
        ):  # also if it is up again already
            return [_seen(conditions.ROUTER_DOWN, "router", since=life.died, detail=life.cause)]
        return []

    def _of_node(self, now: float, wall: float, stalled_since: float | None) -> list[Observation]:
        seen = []
        if stalled_since is not None:
            seen.append(_seen(conditions.LOOP_STALLED, "loop", since=stalled_since))
        if (away := self._senses.containerd_away()) is not None:
            seen.append(_seen(conditions.CONTAINERD_AWAY, "watcher", since=away))
        if why := self._pulls.failing(self._senses.pulls(), now):
            seen.append(_seen(conditions.PULLS_FAILING, "pulls", detail=why))
        if (jump := self._clock.jumped(wall=wall, monotonic=now)) is not None:
            seen.append(_seen(conditions.CLOCK_JUMPED, "clock", detail=f"by {jump:+.1f} s"))
        return seen

    def _of_disks(self, faults: Collection[Fault]) -> list[Observation]:
        return [
            _seen(each.condition, "disk", subject=str(each.folder), detail=each.detail)
            for each in faults
        ]

    def _judged(
        self, condition: Condition, peers: Mapping[str, str], *, source: str = "health"
    ) -> list[Observation]:
        chosen = sorted(peers.items())[:MAX_SUBJECTS]
        return [_seen(condition, source, subject=peer, detail=why) for peer, why in chosen]

    def _dated(self, seen: list[Observation], now: float) -> list[Observation]:
        """Date those of which it is not known since when they are so: since they were first seen."""
        keys = {(one.condition.name, one.subject) for one in seen}
        self._since = {key: at for key, at in self._since.items() if key in keys}
        return [one if one.since < UNKNOWN else self._date(one, now) for one in seen]

    def _date(self, one: Observation, now: float) -> Observation:
        since = self._since.setdefault((one.condition.name, one.subject), now)
        return _seen(one.condition, one.source, subject=one.subject, since=since, detail=one.detail)


UNKNOWN = float("inf")


def _seen(
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
