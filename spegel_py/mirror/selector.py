"""Choosing among the peers of one pull: no I/O, no clock, no randomness of its own."""

from __future__ import annotations

from random import Random
from typing import Protocol

from spegel_py.mirror.scores import Outcome, Result, Scores
from spegel_py.routing.base import Peer


class PeerSelector(Protocol):
    """Decides who is asked next; made for one pull. Times are monotonic seconds."""

    def offer(self, peer: Peer) -> None:
        """Make a peer known that has the content; a peer offered twice is one peer."""
        ...

    def pick(self, now: float) -> Peer | None:
        """Return who to ask next, None while there is nobody. Its outcome must be recorded; a peer that was
        abandoned may be picked again, any other is picked once."""
        ...

    def has_more(self, now: float) -> bool:
        """Say whether `pick` would return a peer."""
        ...

    def record(self, peer: Peer, outcome: Outcome, now: float) -> None:
        """Learn how asking a picked peer ended."""
        ...


class WeightedSelector:
    """Picks at random, in proportion to the peers' weights (see scores)."""

    def __init__(self, *, key: str, scores: Scores, random: Random) -> None:
        self._key = key
        self._scores = scores
        self._random = random
        self._offered: set[Peer] = set()
        self._waiting: list[Peer] = []

    def __repr__(self) -> str:
        return f"<WeightedSelector of {self._key}: {len(self._waiting)} of {len(self._offered)} peers left>"

    def offer(self, peer: Peer) -> None:
        if peer not in self._offered:
            self._offered.add(peer)
            self._waiting.append(peer)

    def pick(self, now: float) -> Peer | None:
        choice = self._choice(now)
        if not choice:
            return None
        weights = [self._scores.of(peer).weight(now) for peer in choice]
        [peer] = self._random.choices(choice, weights)
        self._waiting.remove(peer)
        self._scores.begin(peer)
        return peer

    def has_more(self, now: float) -> bool:
        return bool(self._choice(now))

    def record(self, peer: Peer, outcome: Outcome, now: float) -> None:
        self._scores.end(peer, outcome, now)
        if outcome.result is Result.ABANDONED:
            self._waiting.append(peer)

    def _choice(self, now: float) -> list[Peer]:
        return [peer for peer in self._waiting if not self._scores.is_shunned(self._key, peer, now)]
