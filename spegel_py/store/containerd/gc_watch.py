"""Which blobs to look after, and when to look next: garbage collection takes them without a word.

containerd tells of images that go, not of the blobs that its collector then takes, 0.2 s later or, on a busy
node, minutes later. So what an image held is looked at again and again for a while, and what no image holds any
more is looked at until it is gone. Pure: time is passed in, in seconds of any clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from spegel_py.oci.digest import Digest

FIRST, EAGER, LAZY = 0.1, 1.5, 15.0
"""Seconds between two looks: the first, doubling up to the eager pace (so that a loss is told within 2 s), and the
pace at which something is looked after that nobody has collected for long."""

EAGER_FOR = 600.0
"""Seconds for which the eager pace is kept: longer than a loaded collector takes."""

HELD_FOR = 60.0
"""Seconds for which blobs are looked after that an image holds: unpacking may discard layers after a pull."""


@dataclass(slots=True)
class _Watch:
    since: float
    due: float


class GCWatch:
    """The blobs that are looked after."""

    def __init__(self) -> None:
        self._watches: dict[Digest, _Watch] = {}

    def __repr__(self) -> str:
        return f"<Vigil blobs={len(self._watches)}>"

    def begin(self, digests: Iterable[Digest], now: float) -> None:
        """Look after these from now on, eagerly at first, though they were looked after before."""
        for digest in digests:
            self._watches[digest] = _Watch(now, now + FIRST)

    def next_due(self) -> float | None:
        """Return when to look next, or None if there is nothing to look after."""
        return min((watch.due for watch in self._watches.values()), default=None)

    def due(self, now: float) -> frozenset[Digest]:
        """Return what to look at now, and a little ahead, so that looks are shared."""
        return frozenset(
            digest for digest, watch in self._watches.items() if watch.due <= now + FIRST / 2
        )

    def record_check(
        self,
        digests: Iterable[Digest],
        *,
        present: Collection[Digest],
        held: Collection[Digest],
        now: float,
    ) -> None:
        """Note a look at `digests`, of which `present` are there and `held` belong to images; plan the next."""
        for digest in digests:
            watch = self._watches[digest]
            age = now - watch.since
            if age > HELD_FOR if digest in held else digest not in present:
                del self._watches[digest]
            else:
                watch.due = now + _pause(age)


def _pause(age: float) -> float:
    if age > EAGER_FOR:
        return LAZY
    return min(max(age, FIRST), EAGER)
