"""Which replicas of other nodes count: those of a lost node for a while longer. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_rules import GRACE, SHORT_GRACE


@dataclass(frozen=True, slots=True)
class _Sighting:
    """When a node's replica was seen last, and by which scan it was missed first."""

    seen: float
    missed: float = math.inf

    def missed_by(self, now: float) -> _Sighting:
        return replace(self, missed=min(self.missed, now))

    def counts(self, now: float, *, has_others: bool) -> bool:
        return now - self.seen <= GRACE if has_others else now - self.missed <= SHORT_GRACE


class ReplicaCounts:
    """The nodes seen with a replica of each image, and since when it has too few or too many.

    Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[Digest, dict[str, _Sighting]] = {}
        self._missing: dict[Digest, float] = {}
        self._surplus: dict[Digest, float] = {}

    def __repr__(self) -> str:
        return f"<ReplicaCounts {len(self._seen)} images>"

    def update(
        self,
        manifest: Digest,
        seen: Collection[str],
        *,
        connected: Collection[str],
        now: float,
        is_held: bool = False,
        leaving: Collection[str] = (),
    ) -> frozenset[str]:
        """Return the ids of the nodes whose replicas count.

        Case 1: a node that announces its replica counts.
        Case 2: a connected node that announces it no longer has released it.
        Case 3: a lost node counts for GRACE. If fewer than two others are left, it counts for
            SHORT_GRACE from the scan that misses it first: the scan before is as long ago as that.
        Case 4: a node that is back, and has not announced its replicas yet, counts as if lost.
        Case 5: a node that drains, or is about to fail, does not count.

        Args:
            seen: the ids of the nodes that announce a replica now.
            connected: the ids of all connected nodes.
            is_held: True if this node has a replica itself, which is one of those that are left.
            leaving: the ids of the nodes of case 5.
        """
        seen = frozenset(seen) - frozenset(leaving)
        known = self._seen.get(manifest, {})
        lost = {
            one: sighting.missed_by(now)
            for one, sighting in known.items()
            if one not in seen
            and one not in leaving
            and (one not in connected or sighting.missed < math.inf)
        }
        self._seen[manifest] = dict.fromkeys(seen, _Sighting(now)) | {
            one: sighting for one, sighting in lost.items() if now - sighting.seen <= GRACE
        }
        has_others = len(seen) + is_held >= 2
        return seen | {
            one for one, sighting in lost.items() if sighting.counts(now, has_others=has_others)
        }

    def missing_for(self, manifest: Digest, *, is_missing: bool, now: float) -> float:
        """Return the seconds for which an image has had too few replicas."""
        return _lasting(self._missing, manifest, is_so=is_missing, now=now)

    def surplus_for(self, manifest: Digest, *, has_surplus: bool, now: float) -> float:
        """Return the seconds for which an image has had too many replicas."""
        return _lasting(self._surplus, manifest, is_so=has_surplus, now=now)

    def keep(self, manifests: Collection[Digest]) -> None:
        """Forget all other images."""
        for known in (self._seen, self._missing, self._surplus):
            for manifest in known.keys() - set(manifests):
                del known[manifest]


def _lasting(since: dict[Digest, float], manifest: Digest, *, is_so: bool, now: float) -> float:
    """Return the seconds for which something has been so; record its beginning or its end."""
    if not is_so:
        since.pop(manifest, None)
        return 0.0
    return now - since.setdefault(manifest, now)
