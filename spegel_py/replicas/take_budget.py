"""The budget that all takes of a node share: bytes per second, and room on the disk. Pure."""

from __future__ import annotations

from spegel_py.replicas.take_order import TakeProgress
from spegel_py.transfer.bucket import TokenBucket


class TakeBudget:
    """The budget of one node.

    Args:
        rate: bytes per second of all background takes together; 0 for no limit.
    """

    def __init__(self, *, rate: int = 0) -> None:
        self._bucket = TokenBucket(rate=rate)
        self._under_way: list[TakeProgress] = []

    def __repr__(self) -> str:
        return f"<TakeBudget {len(self._under_way)} under way>"

    def begin(self, progress: TakeProgress) -> None:
        """Count an image as being taken."""
        self._under_way.append(progress)

    def end(self, progress: TakeProgress) -> None:
        """Count an image no longer."""
        self._under_way.remove(progress)

    def promised(self, but: TakeProgress) -> int:
        """Return the bytes that other takes have yet to write. They were admitted before."""
        return sum(_missing(one) for one in self._under_way if one is not but)

    def pay(self, count: int, now: float) -> float:
        """Pay for bytes at the monotonic time `now`; return the seconds to wait."""
        return self._bucket.pay(count, now)


def _missing(progress: TakeProgress) -> int:
    """Return the bytes of an admitted image that are not on the disk yet."""
    if not progress.is_admitted or progress.image is None:
        return 0
    return max(0, progress.image.size * progress.order.footprint - progress.done)
