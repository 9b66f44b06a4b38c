"""Which replicas of other nodes count: those of a lost node for a while longer. Pure."""

from __future__ import annotations

from collections.abc import Collection

from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_rules import GRACE, SHORT_GRACE


class ReplicaCounts:
    """The nodes seen with a replica of each image, and since when an image has too many.

    Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[Digest, dict[str, float]] = {}
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
        Case 3: a lost node counts for GRACE, or for SHORT_GRACE if fewer than two others are left.
        Case 4: a node that drains, or is about to fail, does not count.

        Args:
            seen: the ids of the nodes that announce a replica now.
            connected: the ids of all connected nodes.
            is_held: True if this node has a replica itself, which is one of those that are left.
            leaving: the ids of the nodes of case 4.
        """
        seen = frozenset(seen) - frozenset(leaving)
        known = self._seen.get(manifest, {})
        before = {one: at for one, at in known.items() if one not in leaving}
        lost = {one: at for one, at in before.items() if one not in seen and one not in connected}
        grace = GRACE if len(seen) + is_held >= 2 else SHORT_GRACE
        remembered = {one: at for one, at in lost.items() if now - at <= GRACE}
        self._seen[manifest] = remembered | dict.fromkeys(seen, now)
        return seen | {one for one, at in remembered.items() if now - at <= grace}

    def surplus_for(self, manifest: Digest, *, has_surplus: bool, now: float) -> float:
        """Return the seconds for which an image has had too many replicas."""
        if not has_surplus:
            self._surplus.pop(manifest, None)
            return 0.0
        return now - self._surplus.setdefault(manifest, now)

    def keep(self, manifests: Collection[Digest]) -> None:
        """Forget all other images."""
        for known in (self._seen, self._surplus):
            for manifest in known.keys() - set(manifests):
                del known[manifest]
