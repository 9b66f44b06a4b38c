"""How old what we know of a tag is: when somebody last saw it at its registry, not when it was last passed on.

A tag may move at its registry at any time. A node that pulled it from there knows it as of then; a node that had it
from a peer, or from itself, knows it only as of when that peer saw it, though containerd writes a new time beside the
image at every pull. Without this rule a tag that is pulled often enough from peers would stay young for ever.
Pure: times are passed in, in Unix time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spegel_py.oci.reference import canonical_name
from spegel_py.tools.bounded import BoundedDict

LIMIT = 4096
"""Tags remembered: those answered last. One that is forgotten counts from its pull, as after a restart."""


@dataclass(slots=True)
class _Answer:
    """As of when a tag was answered, and until when pulls go by that."""

    seen: float
    until: float = math.inf


class Freshness:
    """For how long tags may be answered, and as of when each is known.

    `ttl` is in seconds; 0 is not at all. A tag's name may spell its registry in any way.
    """

    def __init__(self, *, ttl: float = math.inf) -> None:
        self.ttl = ttl
        self._answers: BoundedDict[str, _Answer] = BoundedDict(limit=LIMIT)

    def __repr__(self) -> str:
        return f"<Freshness ttl={self.ttl:g} s, {len(self._answers)} tags>"

    def seen(self, name: str, pulled: float) -> float:
        """Return when a tag that was pulled here at that time was last seen at its registry."""
        answer = self._answers.get(canonical_name(name))
        return min(pulled, answer.seen) if answer and pulled <= answer.until else pulled

    def is_fresh(self, seen: float, now: float) -> bool:
        """Say whether a tag that was seen then may be answered now."""
        return bool(self.ttl) and now - seen <= self.ttl

    def answered(self, name: str, seen: float) -> None:
        """Note that the tag was answered as of that time: a pull that follows knows no better."""
        self._answers[canonical_name(name)] = _Answer(seen)

    def missed(self, name: str, now: float) -> None:
        """Note that the tag was not answered: a pull that follows goes to the registry."""
        if answer := self._answers.get(canonical_name(name)):
            answer.until = min(answer.until, now)
