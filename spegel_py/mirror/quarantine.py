"""Peers that sent wrong bytes are asked for nothing, for a while that doubles each time; pure: time is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from spegel_py.tools.bounded import BoundedDict

FIRST = 600.0
"""Seconds of the first quarantine: long enough to spare every pull of a rollout, and to be looked into."""

LONGEST = 86_400.0
"""Seconds that no quarantine exceeds: a disk or memory module is replaced within a day, or never."""

LIMIT = 1024
"""Peers remembered: those that offended last."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    seconds: float
    until: float


class Quarantine:
    """Who is in quarantine, by peer id: a new address makes a peer no better."""

    def __init__(self) -> None:
        self._sentences: BoundedDict[str, _Sentence] = BoundedDict(limit=LIMIT)

    def __repr__(self) -> str:
        return f"<Quarantine of {len(self._sentences)} offenders>"

    def add(self, peer: str, now: float) -> float:
        """Put a peer into quarantine and return for how many seconds; one that is in it already stays as it is.

        Several pulls may find out the same at the same time, which is one offence.
        """
        former = self._sentences.get(peer)
        if former is not None and now < former.until:
            return former.until - now
        seconds = min(former.seconds * 2, LONGEST) if former else FIRST
        self._sentences[peer] = _Sentence(seconds, now + seconds)
        return seconds

    def holds(self, peer: str, now: float) -> bool:
        """Say whether a peer is in quarantine now."""
        sentence = self._sentences.get(peer)
        return sentence is not None and now < sentence.until

    def count(self, now: float) -> int:
        """Return how many are in quarantine now."""
        return sum(now < sentence.until for sentence in self._sentences.values())
