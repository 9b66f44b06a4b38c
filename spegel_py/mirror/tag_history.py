"""The observations of each tag that this node knows, and whether they contradict each other. Pure.

A tag may move at its registry, and even move back. So two digests are no contradiction, and neither
are three observations whose clocks disagree. A contradiction has this form: a single node says that
the tag has one digest; others saw another digest before, and saw it again afterwards. Either that
node lies, or the tag moved there and back while nobody else looked. One liar cannot turn the
tables: it takes two nodes, or this node itself, to contradict one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from spegel_py.mirror.tag_trust import MAX_AHEAD
from spegel_py.oci.digest import Digest
from spegel_py.routing.tag_observation import TagObservation
from spegel_py.tools.bounded import BoundedDict

MAX_TAGS = 4096
"""Tags whose observations are remembered, the last heard."""
MAX_OF_TAG = 8
"""Pairs of observer and digest that are remembered for one tag."""


@dataclass(frozen=True, slots=True)
class KnownWord:
    """The observations by one node that a tag had one digest.

    Args:
        first: the earliest observation that is known.
        last: the latest observation.
        heard: Unix time by this node's clock when the last one came, or was made.
        is_own: True if this node is the observer.
    """

    first: TagObservation
    last: TagObservation
    heard: float
    is_own: bool

    @property
    def digest(self) -> Digest:
        return self.last.digest

    @property
    def observer(self) -> str:
        return self.last.observer


@dataclass(frozen=True, slots=True)
class TagConflict:
    """The word of one node about a tag, and two words of others that contradict it."""

    alone: TagObservation
    before: TagObservation
    after: TagObservation

    def __str__(self) -> str:
        one, before, after = self.alone, self.before, self.after
        return (
            f"{one.observer} alone says that it was {one.digest} at {one.seen}; "
            f"{before.observer} saw {before.digest} at {before.seen}, "
            f"and {after.observer} again at {after.seen}"
        )


class TagHistory:
    """Keeps the observations of tags. A conflict ends `ttl` seconds after the word it is about."""

    def __init__(self, *, ttl: float) -> None:
        self._ttl = ttl
        self._tags: BoundedDict[str, tuple[KnownWord, ...]] = BoundedDict(limit=MAX_TAGS)
        self._conflicts: dict[str, TagConflict] = {}

    def __repr__(self) -> str:
        return f"<TagHistory of {len(self._tags)} tags, {len(self._conflicts)} conflicts>"

    def record(self, observation: TagObservation, *, now: float, is_own: bool = False) -> None:
        """Record a verified observation that came, or was made, at the Unix time `now`."""
        name = observation.name
        known = list(self._tags.get(name, ()))
        for place, each in enumerate(known):
            if (each.observer, each.digest) == (observation.observer, observation.digest):
                known[place] = _joined(each, observation, now)
                break
        else:
            known.append(KnownWord(observation, observation, now, is_own))
            if len(known) > MAX_OF_TAG:
                known.remove(min(known, key=lambda each: (each.is_own, each.last.seen)))
        self._tags[name] = tuple(known)
        self._judge(name)

    def of(self, name: str) -> Collection[TagObservation]:
        """Return the latest observation by each observer of each digest of a tag."""
        return [each.last for each in self._tags.get(name, ())]

    def is_contested(self, name: str, observer: str) -> bool:
        """Return True if other nodes contradict what this node says about a tag."""
        conflict = self._conflicts.get(name)
        return conflict is not None and conflict.alone.observer == observer

    def conflicts(self, now: float) -> Mapping[str, TagConflict]:
        """Return the conflicts of tags that are not over, by the tags' names."""
        for name, conflict in list(self._conflicts.items()):
            if now - conflict.alone.seen > self._ttl:
                del self._conflicts[name]
        return self._conflicts

    def _judge(self, name: str) -> None:
        if (conflict := find_conflict(self._tags[name])) is not None:
            if len(self._conflicts) < MAX_TAGS:
                self._conflicts.setdefault(name, conflict)
        else:
            self._conflicts.pop(name, None)


def find_conflict(words: Iterable[KnownWord]) -> TagConflict | None:
    """Return the first contradiction among the observations of one tag; None if there is none."""
    words = list(words)
    for alone in words:
        by_others = [each for each in words if each.observer != alone.observer]
        # Case 1: somebody else saw this digest too.
        if any(each.digest == alone.digest for each in by_others):
            continue
        # Case 2: the node has seen the tag move since, so it agrees with the others by now.
        if _has_moved_on(alone, words):
            continue
        for digest in dict.fromkeys(each.digest for each in by_others):
            same = [each for each in by_others if each.digest == digest]
            # Case 3: one other node against one.
            if len(same) == 1 and not same[0].is_own:
                continue
            before = min(same, key=lambda each: each.first.seen).first
            after = [each.last for each in same if _is_after(each, alone)]
            if after and before.seen < alone.last.seen - MAX_AHEAD:
                return TagConflict(alone.last, before, after[0])
    return None


def _is_after(word: KnownWord, alone: KnownWord) -> bool:
    """Return True if a word is certainly later than the last one of the node that is alone.

    This node's own look at the registry is later than all that it had heard before. The times of
    two other nodes are compared with room for their clocks.
    """
    if word.is_own:
        return word.heard > alone.heard
    return word.last.seen > alone.last.seen + MAX_AHEAD


def _has_moved_on(alone: KnownWord, words: Iterable[KnownWord]) -> bool:
    return any(
        each.observer == alone.observer
        and each.digest != alone.digest
        and each.last.seen > alone.last.seen
        for each in words
    )


def _joined(known: KnownWord, new: TagObservation, now: float) -> KnownWord:
    if new.seen > known.last.seen:
        return replace(known, last=new, heard=now)
    return replace(known, first=new) if new.seen < known.first.seen else known
