"""When one peer pulled its tags: 16 bytes a tag. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

MAX_TAGS_PER_PEER = 10_000
"""Tags of one peer whose pull time is kept."""
_FEW = 64
"""Times up to which each is put in its place; more are sorted together."""


class TagAges:
    """The monotonic time at which a peer pulled each of its tags.

    A tag is known here by the first 8 bytes of its key. Two tags of one peer that share them would
    share a time, which no honest peer achieves.
    """

    __slots__ = ("_tags", "_times")

    def __init__(self) -> None:
        self._tags = array("Q")  # sorted
        self._times = array("d")

    def __len__(self) -> int:
        return len(self._tags)

    def get(self, key: bytes) -> float | None:
        """Return when a tag was pulled, None if that is unknown."""
        tag = _tag(key)
        place = bisect_left(self._tags, tag)
        found = place < len(self._tags) and self._tags[place] == tag
        return self._times[place] if found else None

    def update(self, times: Iterable[tuple[bytes, float]], *, room: int) -> None:
        """Set the times of tags, `room` new ones at most."""
        room = min(room, MAX_TAGS_PER_PEER - len(self))
        given = {_tag(key): at for key, at in times}
        if len(given) > _FEW:
            self._merge(given, room)
            return
        for tag, at in given.items():
            place = bisect_left(self._tags, tag)
            if place < len(self) and self._tags[place] == tag:
                self._times[place] = at
            elif room > 0:
                self._tags.insert(place, tag)
                self._times.insert(place, at)
                room -= 1

    def remove(self, keys: Iterable[bytes]) -> None:
        """Forget the times of tags."""
        if not self._tags:
            return
        for tag in map(_tag, keys):
            place = bisect_left(self._tags, tag)
            if place < len(self) and self._tags[place] == tag:
                del self._tags[place], self._times[place]

    def _merge(self, given: dict[int, float], room: int) -> None:
        known = dict(zip(self._tags, self._times, strict=True))
        for tag, at in given.items():
            if tag in known:
                known[tag] = at
            elif room > 0:
                known[tag] = at
                room -= 1
        self._tags = array("Q", sorted(known))
        self._times = array("d", (known[tag] for tag in self._tags))


def _tag(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")
