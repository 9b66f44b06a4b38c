"""Choosing among the peers of one pull: no I/O, no clock, no randomness of its own."""

from __future__ import annotations

from random import Random
from typing import Protocol

from spegel_py.mirror.scores import Outcome, Scores
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer


class PeerSelector(Protocol):
    """Decides who is asked next; made for one pull. Times are monotonic seconds."""

    def offer(self, peer: Peer) -> None:
        """Make a peer known that has the content; a peer offered twice is one peer."""
        ...

    def complete(self) -> None:
        """Note that no more peers will be offered."""
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
    """Picks at random, in proportion to the peers' weights (see scores).

    Peers that are not trusted at all wait until all were offered, and are picked only if no other was: then everybody
    may be well, and only the checks be wrong.
    """

    def __init__(self, *, key: str, scores: Scores, random: Random) -> None:
        self._key = key
        self._scores = scores
        self._random = random
        self._offered: set[Peer] = set()
        self._waiting: list[Peer] = []
        self._is_complete = False

    def __repr__(self) -> str:
        return f"<WeightedSelector of {self._key}: {len(self._waiting)} of {len(self._offered)} peers left>"

    def offer(self, peer: Peer) -> None:
        if peer not in self._offered:
            self._offered.add(peer)
            self._waiting.append(peer)

    def complete(self) -> None:
        self._is_complete = True

    def pick(self, now: float) -> Peer | None:
        choice = self._choice(now)
        if not choice:
            return None
        weights = [self._scores.of(peer).weight(now) * trust for peer, trust in choice.items()]
        [peer] = self._random.choices(list(choice), weights)
        self._waiting.remove(peer)
        self._scores.begin(peer)
        return peer

    def has_more(self, now: float) -> bool:
        return bool(self._choice(now))

    def record(self, peer: Peer, outcome: Outcome, now: float) -> None:
        self._scores.end(peer, outcome, now)
        if outcome.result is AttemptOutcome.ABANDONED:
            self._waiting.append(peer)

    def _choice(self, now: float) -> dict[Peer, float]:
        """Return who may be picked, each with its trust; with 1 where nobody is trusted."""
        offered = [
            peer for peer in self._offered if not self._scores.is_shunned(self._key, peer, now)
        ]
        trusted = {peer: trust for peer in offered if (trust := self._scores.trust(peer, now)) > 0}
        if not trusted and self._is_complete:
            trusted = dict.fromkeys(offered, 1.0)
        return {peer: trusted[peer] for peer in self._waiting if peer in trusted}
