"""Which peer to ping next, and when a silent peer is suspected and dropped. Pure.

It follows SWIM (Das, Gupta, Motivala, 2002) and Lifeguard (HashiCorp, 2017): each node pings one
peer a second, in a cluster of any size. A ping without an answer begins a *doubt*, which goes
through three stages:

    PINGED      the peer has PING_TIMEOUT seconds to answer
    ASKED       HELPERS other members ping it too
    SUSPECTED   all members are told, and ping it too; it is dropped after SUSPICION seconds, sooner
                if other members do not hear it either

An answer ends a doubt at any stage. Two things differ from SWIM, because every member has an
authenticated connection to every other one:

1. Members ping in a fixed order, shifted by one place each second, instead of a shuffled one. With
   clocks that agree, each member is pinged by exactly one other every second.
2. A suspicion is no verdict but a hint: each member pings the suspected peer itself, and drops it
   for its own unanswered ping only. The answer to that ping is the refutation. It comes from the
   peer itself and is newer than the ping, so no incarnation numbers are needed, and no liar can
   have a living peer dropped.

A node that is late itself has more patience with others (`LocalHealth`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from random import Random

PERIOD = 1.0
"""Seconds between two pings that a node sends by itself."""
PING_TIMEOUT = 1.0
"""Seconds a peer has to answer a ping: with 5 % loss TCP needs 0.6 s for the second repetition."""
ASK_TIMEOUT = 1.5
"""Seconds that helpers have to answer: their own ping may take PING_TIMEOUT."""
HELPERS = 3
"""Members that are asked to ping a peer that does not answer."""
CONFIRMATIONS = 3
"""Members that do not hear a suspected peer either, after which it is dropped soonest."""
SUSPICION = (3.0, 5.0)
"""Seconds from the suspicion of a peer until it is dropped, with all confirmations and without
one."""
UNREACHABLE = 8.0
"""Seconds of silence after which a peer is dropped that other members do reach."""
LOUDEST = 512
"""Members told of one suspicion at most: in a larger cluster they tell the others."""
SPREAD = 1.0
"""Seconds over which members that were told of a suspicion tell it on, if it is still needed."""
LATE = 0.25
"""Seconds by which this node's loop may be late before it counts as slow."""
WORST = 4
"""The worst score of a node's own health."""
PATIENCE_PER_SCORE = 0.5
"""Part of a timeout by which each point of the score prolongs it: three times as long at WORST."""


class Stage(Enum):
    """How far the doubt about a peer has gone."""

    PINGED = "pinged"
    ASKED = "asked"
    SUSPECTED = "suspected"


@dataclass(frozen=True, slots=True)
class AskOthers:
    """Ask these members to ping a peer; `is_suspicion` tells them that others failed already."""

    peer: str
    members: tuple[str, ...]
    is_suspicion: bool


@dataclass(frozen=True, slots=True)
class SuspectPeer:
    """A suspicion has begun; `others` counts the members that do not hear the peer either."""

    peer: str
    others: int


@dataclass(frozen=True, slots=True)
class DropPeer:
    """Drop a peer that has been silent for `seconds`."""

    peer: str
    seconds: float


Action = AskOthers | SuspectPeer | DropPeer


class LocalHealth:
    """How well this node itself keeps time, from 0 to WORST (Lifeguard's local health)."""

    def __init__(self) -> None:
        self.score = 0

    def __repr__(self) -> str:
        return f"<LocalHealth {self.score}>"

    @property
    def patience(self) -> float:
        """The factor for all timeouts."""
        return 1.0 + PATIENCE_PER_SCORE * self.score

    def better(self) -> None:
        """Record a ping that was answered in time."""
        self.score = max(0, self.score - 1)

    def worse(self) -> None:
        """Record that this node was late, or doubted a peer that others hear."""
        self.score = min(WORST, self.score + 1)


@dataclass(slots=True)
class _Doubt:
    """The doubt about one peer.

    Args:
        since: when the ping was sent that is not answered yet.
        stage_since: when the stage began.
        asked: helpers whose answers are awaited.
        deaf: other members that do not hear the peer either.
        accusers: those of them that told so unasked: they have told others too.
        is_vouched_for: True if another member hears the peer.
        tell_at: when to tell all members, infinite once that is done.
    """

    since: float
    stage_since: float
    stage: Stage = Stage.PINGED
    asked: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    accusers: set[str] = field(default_factory=set)
    is_vouched_for: bool = False
    tell_at: float = math.inf


class FailureDetector:
    """Watches the connected peers, by their ids. Times are monotonic seconds.

    Args:
        peers: the members that are connected already; all of them can be asked to ping others.
    """

    def __init__(self, *, own: str, random: Random, peers: frozenset[str] = frozenset()) -> None:
        self._own = own
        self._random = random
        self._ring: tuple[str, ...] | None = None
        self._peers = peers
        self._helpers = peers
        self._doubts: dict[str, _Doubt] = {}
        self._heard: dict[str, float] = {}
        self.health = LocalHealth()

    def __repr__(self) -> str:
        return f"<FailureDetector {len(self._peers)} peers, {len(self._doubts)} doubts>"

    # The peers

    def add(self, peer: str) -> None:
        """Watch a connected peer."""
        self._peers |= {peer}
        self._ring = None

    def remove(self, peer: str) -> None:
        """Stop watching a peer that is no longer connected."""
        self._peers -= {peer}
        self._ring = None
        self._helpers -= {peer}
        self._doubts.pop(peer, None)
        self._heard.pop(peer, None)

    def set_helper(self, peer: str, *, on: bool) -> None:
        """Record whether a connected peer can be asked to ping others."""
        if on and peer in self._peers:
            self._helpers |= {peer}
        else:
            self._helpers -= {peer}

    def is_helper(self, peer: str) -> bool:
        """Return True if the peer can be asked to ping others: it pings this node too."""
        return peer in self._helpers

    def heard_at(self, peer: str) -> float | None:
        """Return when the peer last answered a ping, None if it never did."""
        return self._heard.get(peer)

    def silent_since(self, peer: str) -> float | None:
        """Return when the ping was sent that the peer has not answered yet, None without one."""
        doubt = self._doubts.get(peer)
        return None if doubt is None else doubt.since

    def left(self, peer: str, now: float) -> float | None:
        """Return the seconds until a suspected peer is dropped, None if it is not suspected."""
        doubt = self._doubts.get(peer)
        if doubt is None or doubt.stage is not Stage.SUSPECTED:
            return None
        return max(0.0, self._end(doubt) - now)

    # Pings

    def next_target(self, turn: int) -> str | None:
        """Return the peer to ping in a turn: seconds on a clock that the members share."""
        ring = self._order()
        count, place = len(ring), bisect_left(ring, self._own)
        for step in range(count):
            peer = ring[(place + turn + step) % count]
            if peer not in self._doubts:
                return peer
        return None

    def pinged(self, peer: str, now: float) -> None:
        """Record a ping that was sent; further ones change nothing until one is answered."""
        if peer in self._peers:
            self._doubts.setdefault(peer, _Doubt(since=now, stage_since=now))

    def answered(self, peer: str, now: float) -> Stage | None:
        """Record a peer's answer to a ping. Return the stage of the doubt that it ends."""
        doubt = self._doubts.pop(peer, None)
        if peer in self._peers:
            self._heard[peer] = now
        if doubt is None:
            return None
        if doubt.stage is Stage.PINGED:
            self.health.better()
        return doubt.stage

    # Other members

    def accused(self, peer: str, *, by: str, now: float) -> None:
        """Record that another member suspects a peer. The peer was pinged before this call."""
        if (doubt := self._doubts.get(peer)) is not None:
            self._confirm(doubt, by)
            doubt.accusers = doubt.accusers | {by} if self._has_room(doubt) else doubt.accusers

    def replied(self, peer: str, *, by: str, hears: bool | None, now: float) -> None:
        """Record the reply of a member that was asked: None if it is not connected to the peer."""
        if (doubt := self._doubts.get(peer)) is None:
            return
        doubt.asked.discard(by)
        if hears:
            if not doubt.is_vouched_for:
                self.health.worse()
            doubt.is_vouched_for = True
        elif hears is False:
            self._confirm(doubt, by)

    @staticmethod
    def _has_room(doubt: _Doubt) -> bool:
        return len(doubt.accusers) < CONFIRMATIONS

    @staticmethod
    def _confirm(doubt: _Doubt, by: str) -> None:
        if len(doubt.deaf) < CONFIRMATIONS:
            doubt.deaf.add(by)

    # This node itself

    def stood_still(self, seconds: float) -> None:
        """Leave out a time in which this node could hear no answer, and have more patience."""
        self.health.worse()
        for doubt in self._doubts.values():
            doubt.since += seconds
            doubt.stage_since += seconds
            doubt.tell_at += seconds

    # What is due

    def due(self, now: float) -> Iterator[Action]:
        """Advance all doubts to `now`, and yield each action that follows."""
        for peer, doubt in list(self._doubts.items()):
            yield from self._advance(peer, doubt, now)

    def next_at(self) -> float:
        """Return when `due` should be called again; infinite without a doubt."""
        return min(map(self._next_change, self._doubts.values()), default=math.inf)

    def _advance(self, peer: str, doubt: _Doubt, now: float) -> Iterator[Action]:
        patience = self.health.patience
        # Case 1: the ping has timed out. If others suspect the peer, their helpers failed already.
        if doubt.stage is Stage.PINGED and now >= doubt.since + PING_TIMEOUT * patience:
            helpers = () if doubt.accusers else self._choose(HELPERS, peer)
            doubt.asked, doubt.stage, doubt.stage_since = set(helpers), Stage.ASKED, now
            if helpers:
                yield AskOthers(peer, helpers, is_suspicion=False)
        # Case 2: no helper hears the peer either, or there is none.
        wait = ASK_TIMEOUT * patience if doubt.asked else 0.0
        is_unheard = doubt.stage is Stage.ASKED and not doubt.is_vouched_for
        if is_unheard and now >= doubt.stage_since + wait:
            doubt.stage, doubt.stage_since = Stage.SUSPECTED, now
            doubt.tell_at = now + (self._random.uniform(0, SPREAD) if doubt.accusers else 0)
            yield SuspectPeer(peer, len(doubt.deaf))
        # Case 3: tell all members, unless enough others have done so.
        if doubt.stage is Stage.SUSPECTED and now >= doubt.tell_at:
            doubt.tell_at = math.inf
            if self._has_room(doubt) and (told := self._choose(LOUDEST, peer)):
                yield AskOthers(peer, told, is_suspicion=True)
        # Case 4: its time is over.
        if doubt.stage is not Stage.PINGED and now >= self._end(doubt):
            yield DropPeer(peer, now - doubt.since)

    def _next_change(self, doubt: _Doubt) -> float:
        patience = self.health.patience
        if doubt.stage is Stage.PINGED:
            return doubt.since + PING_TIMEOUT * patience
        end = self._end(doubt)
        if doubt.stage is Stage.ASKED and not doubt.is_vouched_for:
            wait = ASK_TIMEOUT * patience if doubt.asked else 0.0
            return min(end, doubt.stage_since + wait)
        return min(end, doubt.tell_at)

    def _end(self, doubt: _Doubt) -> float:
        """Return when the peer is dropped unless it answers."""
        patience = self.health.patience
        if doubt.is_vouched_for or doubt.stage is not Stage.SUSPECTED:
            return doubt.since + UNREACHABLE * patience
        return doubt.stage_since + suspicion(len(doubt.deaf)) * patience

    def _order(self) -> tuple[str, ...]:
        """Return the peers in the order in which all members ping each other."""
        if self._ring is None:
            self._ring = tuple(sorted(self._peers - {self._own}))
        return self._ring

    def _choose(self, count: int, peer: str) -> tuple[str, ...]:
        """Return up to `count` members at random that are not in doubt themselves."""
        helpers = [
            each
            for each in self._order()
            if each in self._helpers and each != peer and each not in self._doubts
        ]
        return tuple(self._random.sample(helpers, min(count, len(helpers))))


def suspicion(confirmations: int) -> float:
    """Return the seconds from a suspicion until the peer is dropped (Lifeguard's formula).

    The first confirmation shortens it most.
    """
    least, most = SUSPICION
    share = math.log(min(confirmations, CONFIRMATIONS) + 1) / math.log(CONFIRMATIONS + 1)
    return most - (most - least) * share
