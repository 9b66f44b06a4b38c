"""Which peers are checked, and when. Pure.

The peers that pulls use, and those that failed a check, are checked in every interval. The others
are checked once when they are new, and then OTHERS of them in an interval: nodes tell each other
about a registry that does not answer, so one node's check serves all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from random import Random

from spegel_py.routing.base import Peer
from spegel_py.tools.bounded import BoundedDict

BUDGET = 32
"""Peers checked in an interval at most, in a cluster of any size: with 10 s that is 3 small
requests a second."""

NEW = 8
"""Checks of the BUDGET for peers that were never checked: of many that come at once, so many are
checked in an interval."""

OTHERS = 1
"""Checks in an interval of peers that get no requests. In a cluster of any size some node then
checks each peer once in an interval, on average."""

INTEREST = 300.0
"""Seconds for which a peer counts as in use after it was a candidate of a request."""

REMEMBERED = 1024
"""Peers in use that are remembered: the latest ones."""

JITTER = 0.1
"""Share of the interval by which each check comes sooner or later, so that nodes do not fall into
step."""


class CheckScheduler:
    """Times are monotonic seconds; `interval` is the time between two checks of one peer."""

    def __init__(self, *, interval: float, random: Random, budget: int = BUDGET) -> None:
        self._interval = interval
        self._random = random
        self._budget = budget
        self._members: dict[str, Peer] = {}
        self._in_use: BoundedDict[str, tuple[Peer, float]] = BoundedDict(limit=REMEMBERED)
        self._prioritised: dict[str, Peer] = {}
        self._checked: dict[str, float] = {}
        self._next: dict[str, float] = {}
        self._urgent: dict[str, tuple[Peer, float]] = {}
        self._plan_at = -math.inf
        self._wake: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return (
            f"<CheckScheduler {len(self._next)} planned, {len(self._urgent)} urgent, "
            f"of {len(self._members)} members>"
        )

    def set_wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a check may be due sooner than `next_at` returned."""
        self._wake = wake

    def record_use(self, peer: Peer, now: float) -> None:
        """Record that the peer was a candidate of a request."""
        self._in_use[peer.id] = (peer, now)

    def set_members(self, peers: Iterable[Peer], now: float) -> None:
        """Set the connected peers; up to NEW new ones are planned at once."""
        self._members = {peer.id: peer for peer in peers}
        unchecked = self._members.keys() - self._checked.keys()
        planned = sum(name in unchecked for name in self._next)
        if planned < min(NEW, len(unchecked)):
            self._plan_at = min(self._plan_at, now)

    def check_soon(self, peer: Peer, now: float, *, after: float = 0.0) -> None:
        """Plan a check of any peer in `after` seconds, outside the budget of the interval."""
        at = now + after
        self._urgent[peer.id] = (peer, min(at, self._urgent.get(peer.id, (peer, math.inf))[1]))
        self._wake()

    def record_answer(self, peer: Peer, now: float) -> None:
        """Put off the check of a peer that just answered a request, unless it has priority."""
        if peer.id in self._next and peer.id not in self._prioritised:
            self._checked[peer.id] = now
            self._next[peer.id] = self._in_an_interval(now)

    def prioritise(self, peer: Peer, *, on: bool) -> None:
        """Start or stop checking a peer in every interval, before any other."""
        if on:
            self._prioritised[peer.id] = peer
        else:
            self._prioritised.pop(peer.id, None)

    def forget(self, peer_id: str) -> None:
        """Remove a peer that is gone."""
        self._members.pop(peer_id, None)
        self._in_use.pop(peer_id, None)
        self._prioritised.pop(peer_id, None)
        self._checked.pop(peer_id, None)
        self._next.pop(peer_id, None)
        self._urgent.pop(peer_id, None)

    def due(self, now: float, room: int, busy: Collection[str] = ()) -> list[Peer]:
        """Return up to `room` peers to check now. Further peers, and `busy` ones, stay due."""
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
            {name: peer for name, (peer, _) in self._in_use.items()}
            | self._prioritised
            | self._members
        )

    def _plan(self, now: float) -> None:
        """Choose the peers to check in the interval that begins now, within the budget.

        Case 1: peers with priority come first, because they failed a check.
        Case 2: then the peers in use, the latest first.
        Case 3: NEW checks are kept for peers that were never checked. If there are none, OTHERS
        checks go to the remaining peers, the longest unchecked first.

        A peer that is new in the plan is checked at a random time of the interval.
        """
        for name in [name for name, (_, at) in self._in_use.items() if now - at > INTEREST]:
            del self._in_use[name]
        known = self._known()
        wanted = [
            *self._prioritised,
            *(name for name in reversed(self._in_use) if name not in self._prioritised),
        ]
        rest = sorted(known.keys() - set(wanted))
        self._random.shuffle(rest)  # so that nodes begin with different peers
        rest.sort(key=lambda name: self._checked.get(name, -math.inf))
        others = [name for name in rest if name not in self._checked][:NEW] or rest[:OTHERS]
        chosen = wanted[: self._budget - len(others)] + others
        self._next = {
            name: self._next.get(name, now + self._interval * self._random.random())
            for name in chosen
        }
        self._checked = {name: at for name, at in self._checked.items() if name in known}
