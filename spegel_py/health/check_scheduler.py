"""Which peers are checked, and when: those that matter, at most so many for each interval, not in waves. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from random import Random

from spegel_py.routing.base import Peer
from spegel_py.tools.bounded import BoundedDict

BUDGET = 32
"""Peers checked in each interval at most, whatever the cluster's size: with 10 s that is 3 small requests a second."""

OTHERS = 8
"""Of those, kept for peers that nobody asks for anything now: in a cluster of 1,000 each is seen by somebody's check
every second, and by each node's within 20 minutes."""

INTEREST = 300.0
"""Seconds for which a peer matters that was offered or asked."""

REMEMBERED = 1024
"""Peers of interest remembered: those of last."""

JITTER = 0.1
"""Each check comes up to so much of the interval sooner or later, so that nodes do not fall into step."""


class CheckScheduler:
    """Times are monotonic seconds; `interval` is the time between two checks of one peer."""

    def __init__(self, *, interval: float, random: Random, budget: int = BUDGET) -> None:
        self._interval = interval
        self._random = random
        self._budget = budget
        self._members: dict[str, Peer] = {}
        self._interest: BoundedDict[str, tuple[Peer, float]] = BoundedDict(limit=REMEMBERED)
        self._watched: dict[str, Peer] = {}
        self._checked: dict[str, float] = {}
        self._next: dict[str, float] = {}
        self._urgent: dict[str, tuple[Peer, float]] = {}
        self._plan_at = -math.inf
        self._wake: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Agenda {len(self._next)} planned, {len(self._urgent)} urgent, of {len(self._members)} members>"

    def listen(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever the next check may be due sooner than `next_at` said."""
        self._wake = wake

    def matters(self, peer: Peer, now: float) -> None:
        """Note that the peer was offered for a request, or asked."""
        self._interest[peer.id] = (peer, now)

    def members(self, peers: Iterable[Peer], now: float) -> None:
        """Set who is connected; a peer that comes is planned with the others of the next interval."""
        self._members = {peer.id: peer for peer in peers}
        if len(self._next) < min(self._budget, len(self._members)):
            self._plan_at = min(self._plan_at, now)

    def hurry(self, peer: Peer, now: float, *, after: float = 0.0) -> None:
        """Check the peer soon, whoever it is, `after` so many seconds."""
        at = now + after
        self._urgent[peer.id] = (peer, min(at, self._urgent.get(peer.id, (peer, math.inf))[1]))
        self._wake()

    def proved(self, peer: Peer, now: float) -> None:
        """Put the peer's next check off, unless it is watched: it has just answered a request, which shows more."""
        if peer.id in self._next and peer.id not in self._watched:
            self._checked[peer.id] = now
            self._next[peer.id] = self._in_an_interval(now)

    def watch(self, peer: Peer, *, on: bool) -> None:
        """Check this peer in each interval, before any other, or not any more: it does not answer."""
        if on:
            self._watched[peer.id] = peer
        else:
            self._watched.pop(peer.id, None)

    def forget(self, peer_id: str) -> None:
        """Leave out a peer that is gone."""
        self._members.pop(peer_id, None)
        self._interest.pop(peer_id, None)
        self._watched.pop(peer_id, None)
        self._checked.pop(peer_id, None)
        self._next.pop(peer_id, None)
        self._urgent.pop(peer_id, None)

    def due(self, now: float, room: int, busy: Collection[str] = ()) -> list[Peer]:
        """Return up to `room` peers to check now; what finds no room, or is `busy`, stays due."""
        if now >= self._plan_at:
            self._plan(now)
            self._plan_at = now + self._interval
        urgent = {name: peer for name, (peer, at) in self._urgent.items() if at <= now}
        planned = [name for name, at in self._next.items() if at <= now and name not in urgent]
        known = self._known() if planned else {}
        found = [*urgent.values(), *(known[name] for name in planned if name in known)]
        found = [peer for peer in found if peer.id not in busy][: max(0, room)]
        for peer in found:
            self._urgent.pop(peer.id, None)
            self._checked[peer.id] = now
            if peer.id in self._next:
                self._next[peer.id] = self._in_an_interval(now)
        return found

    def next_at(self) -> float:
        """Return when the next check is due."""
        return min([self._plan_at, *self._next.values(), *(at for _, at in self._urgent.values())])

    def _in_an_interval(self, now: float) -> float:
        return now + self._interval * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _known(self) -> dict[str, Peer]:
        return (
            {name: peer for name, (peer, _) in self._interest.items()}
            | self._watched
            | self._members
        )

    def _plan(self, now: float) -> None:
        """Choose who is checked in the interval that begins; newcomers at a random time in it."""
        for name in [name for name, (_, at) in self._interest.items() if now - at > INTEREST]:
            del self._interest[name]
        known = self._known()
        asked = [
            *self._watched,
            *(name for name in reversed(self._interest) if name not in self._watched),
        ]
        rest = sorted(known.keys() - set(asked))
        self._random.shuffle(
            rest
        )  # who was never checked yet: not the same ones first on every node
        rest.sort(key=lambda name: self._checked.get(name, -math.inf))
        chosen = asked[: self._budget - min(OTHERS, len(rest))]
        chosen += rest[: self._budget - len(chosen)]
        self._next = {
            name: self._next.get(name, now + self._interval * self._random.random())
            for name in chosen
        }
        self._checked = {name: at for name, at in self._checked.items() if name in known}
