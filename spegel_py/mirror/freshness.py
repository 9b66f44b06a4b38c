"""The age of tags: when a node last saw a tag at its registry, not when it was last passed on.

A tag may move at its registry at any time. A node that pulled it from the registry knows it as of
that time. A node that got it from a peer, or from itself, knows it only as of the time when that
peer saw it, though containerd writes a new time beside the image at every pull. Without this rule a
tag that is pulled often enough from peers would stay young for ever. Pure: times are Unix times,
passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from spegel_py.oci.reference import canonical_name
from spegel_py.tools.bounded import BoundedDict

MAX_TAGS = 4096
"""Tags remembered, the last answered; a forgotten tag counts from its pull, as after a restart."""


class TagPolicy(StrEnum):
    """Who is asked first for a client's tag. Digests always come from peers first."""

    PEERS_FIRST = "peers-first"
    """Nodes that saw the tag at its registry not too long ago."""
    UPSTREAM_FIRST = "upstream-first"
    """The registry; nodes only while it does not answer."""


@dataclass(slots=True)
class _Answer:
    """A tag was answered as of the time `seen`; pulls up to the time `until` know no later one."""

    seen: float
    until: float = math.inf


class Freshness:
    """Decides for how long tags may be answered, by the time when each was last seen.

    `ttl` is in seconds; 0 is not at all. A tag's name may spell its registry in any way.
    """

    def __init__(self, *, ttl: float = math.inf) -> None:
        self.ttl = ttl
        self._answers: BoundedDict[str, _Answer] = BoundedDict(limit=MAX_TAGS)

    def __repr__(self) -> str:
        return f"<Freshness ttl={self.ttl:g} s, {len(self._answers)} tags>"

    def last_seen(self, name: str, pulled: float) -> float:
        """Return when a tag, pulled here at the time `pulled`, was last seen at its registry."""
        answer = self._answers.get(canonical_name(name))
        return min(pulled, answer.seen) if answer and pulled <= answer.until else pulled

    def is_fresh(self, seen: float, now: float) -> bool:
        """Return True if a tag last seen at that time may be answered now."""
        return bool(self.ttl) and now - seen <= self.ttl

    def record_answer(self, name: str, seen: float) -> None:
        """Record that the tag was answered as of that time: the next pull knows no later one."""
        self._answers[canonical_name(name)] = _Answer(seen)

    def record_miss(self, name: str, now: float) -> None:
        """Record that the tag was not answered: the next pull goes to the registry."""
        if answer := self._answers.get(canonical_name(name)):
            answer.until = min(answer.until, now)
