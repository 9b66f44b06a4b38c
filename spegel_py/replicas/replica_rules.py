"""The rules by which a cluster keeps its images, with their sources."""

from __future__ import annotations

from dataclasses import dataclass

from spegel_py.oci.filters import Pattern
from spegel_py.oci.reference import canonical_name

HOUR = 3600.0
DAY = 24 * HOUR

SCAN = 30.0
"""Seconds between two scans of this node's images. In simulations half of the copies that a tenth
of 1,000 nodes had was restored after one scan."""

GRACE = 300.0
"""Seconds for which the replica of a lost node still counts, so that a restart of nodes in turn
moves nothing (HDFS waits 10.5 minutes, Ceph 10)."""

SHORT_GRACE = 30.0
"""The same where fewer than two other replicas are left."""

LIFE = 14 * DAY
"""Seconds that the store keeps a replica without a renewal. A cluster that was switched off for
longer loses its replicas at its start."""

RENEWAL = DAY
"""Seconds between two renewals of a replica."""

RENEWAL_JITTER = 2 * HOUR
"""Seconds by which a renewal comes sooner or later, so that replicas are not renewed together."""

SURPLUS = HOUR
"""Seconds for which there must be too many replicas before one is released."""

MAY_GROW = 0.75
"""Share of the content's file system up to which replicas are added. The kubelet collects images
at 85 % (imageGCHighThresholdPercent), and it cannot free a replica."""

SHRINK_FROM, SHRINK_TO = 0.80, 0.78
"""Share of the file system from which replicas are released, and the share at which that ends."""

MUST_SHRINK = 0.83
"""Share of the file system from which a replica is released even if it is the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRules:
    """The settings of replicas.

    Args:
        floor: nodes that keep each image while it is wanted; 0 for none.
        ceiling: nodes that keep an image which is pulled often, at most; the floor if it is less.
        keep: seconds for which an image is wanted after a runtime had it; None for ever.
        max_disk: share of the content's file system that replicas may take which no image of the
            runtime has too.
        max_image: bytes of the largest image that is kept.
        patterns: names of images that are kept; none for all.
    """

    floor: int = 0
    ceiling: int = 0
    keep: float | None = DAY
    max_disk: float = 0.10
    max_image: int = 10 * 1024**3
    patterns: tuple[Pattern, ...] = ()

    def selects(self, name: str) -> bool:
        """Return True if an image of this name is kept, in its own or the canonical spelling."""
        spellings = {name, canonical_name(name)}
        return not self.patterns or any(
            pattern.search(each) for pattern in self.patterns for each in spellings
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """The file system of this node's content.

    Args:
        total: bytes of the file system.
        used: bytes in use, of everything.
        alone: bytes of replicas that no image of the runtime has too.
    """

    total: int
    used: int
    alone: int = 0

    @property
    def share(self) -> float:
        """The share of the file system that is in use."""
        return self.used / self.total if self.total else 1.0


def room(disk: DiskUse, rules: ReplicaRules) -> int:
    """Return the bytes that replicas may add to a disk."""
    by_share = int(MAY_GROW * disk.total) - disk.used
    by_limit = int(rules.max_disk * disk.total) - disk.alone
    return max(0, min(by_share, by_limit))


UNKNOWN_DISK = DiskUse(total=1 << 62, used=0)
"""Stands for a file system that cannot be measured: content that is read through a socket."""
