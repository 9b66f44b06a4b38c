"""The blobs that garbage collection may take, and the times to check them.

containerd reports a deleted image, but not the blobs that its collector takes 0.2 s later, or
minutes later on a busy node. So the content of a deleted image is checked repeatedly for a while.
Blobs that no image holds are checked until they are gone. Pure: time is passed in, in seconds of
any clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from spegel_py.oci.digest import Digest

FIRST, EAGER, LAZY = 0.1, 1.5, 15.0
"""Seconds between two checks: the first pause, the longest eager pause, and the lazy pause.

The pause doubles up to the eager one, so that a loss is announced within 2 s. Blobs that stay
uncollected for long are checked at the lazy pace.
"""

EAGER_FOR = 600.0
"""Seconds of the eager pace: longer than a busy collector takes."""

HELD_FOR = 60.0
"""Seconds for which an image's blobs are checked: unpacking may discard layers after a pull."""


@dataclass(slots=True)
class _Watch:
    since: float
    due: float


class GCWatch:
    """The blobs to check, with the time of each blob's next check."""

    def __init__(self) -> None:
        self._watches: dict[Digest, _Watch] = {}

    def __repr__(self) -> str:
        return f"<GCWatch blobs={len(self._watches)}>"

    def begin(self, digests: Iterable[Digest], now: float) -> None:
        """Start to check the blobs, or restart at the eager pace."""
        for digest in digests:
            self._watches[digest] = _Watch(now, now + FIRST)

    def next_due(self) -> float | None:
        """Return the time of the next check; None if there is nothing to check."""
        return min((watch.due for watch in self._watches.values()), default=None)

    def due(self, now: float) -> frozenset[Digest]:
        """Return the blobs to check now. Blobs due a little later share the check."""
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
        """Record a check and plan the next.

        Args:
            digests: The checked blobs.
            present: The blobs that still exist.
            held: The blobs that belong to images.
            now: The time of the check.
        """
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
