"""How many replicas of an image are wanted, and which nodes make them, in different zones. Pure.

A replica is wanted in the zone with the fewest of them. The replicas of an image are never all in
one zone while nodes are in several, even if a holder in that zone would cost no bytes. All nodes
rank alike, so they choose alike without a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_rules import ReplicaRules

SPREAD_PATIENCE = 300.0
"""Seconds for which a missing replica is left to another zone: then nodes there have refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneMap:
    """The zones of the nodes, as one node sees them. A node without a zone is in the zone "".

    Args:
        of: the zones by the nodes' ids, also of nodes that were lost lately.
        present: the zones of the nodes that keep replicas now, this one included.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    present: frozenset[str] = frozenset({""})

    def zone(self, node: str) -> str:
        """Return the zone of a node."""
        return self.of.get(node, "")

    def covered(self, nodes: Collection[str]) -> frozenset[str]:
        """Return the zones that nodes are in."""
        return frozenset(map(self.zone, nodes))


ONE_ZONE = ZoneMap()


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """The replicas that an image should have, and the number of zones that they should be in."""

    copies: int
    zones: int = 1

    @property
    def anywhere(self) -> ReplicaTarget:
        """The same number of replicas, in any zones."""
        return replace(self, zones=1)


def target_of(
    rules: ReplicaRules, zones: ZoneMap, *, extra: int = 0, nodes: int | None = None
) -> ReplicaTarget:
    """Return the target of an image: the floor, or more for an image that is pulled often.

    Case 1: an image is worth no replicas beyond the floor. They are in two zones at least.
    Case 2: it is worth some. One is in each zone, as far as the ceiling allows.

    Args:
        extra: replicas beyond the floor that the image is worth.
        nodes: the number of nodes that keep replicas, which no target exceeds; None for any.
    """
    present = len(zones.present)
    copies, spread = rules.floor, 2
    if copies and extra and rules.ceiling > copies:
        copies, spread = min(rules.ceiling, max(copies + extra, present)), present
    copies = copies if nodes is None else min(copies, nodes)
    return ReplicaTarget(copies, min(spread, copies, present))


def shortage(kept: Collection[str], target: ReplicaTarget, zones: ZoneMap) -> int:
    """Return how many replicas are missing if these nodes have one."""
    return max(0, target.copies - len(kept), target.zones - len(zones.covered(kept)))


def choose_spread(
    manifest: Digest,
    candidates: Collection[str],
    *,
    kept: Collection[str],
    target: ReplicaTarget,
    zones: ZoneMap,
) -> list[str]:
    """Return the candidates that make the missing replicas.

    Each is the first of the rank in the zone with the fewest replicas. The last missing replicas
    are left to zones that have none, and to nobody if no candidate is there.

    Args:
        kept: the nodes that have a replica, or are about to have one.
    """
    missing = shortage(kept, target, zones)
    if not missing or not candidates:
        return []
    if len(zones.covered([*candidates, *kept])) == 1 and target.zones <= 1:
        return ranked_nodes(manifest, candidates, missing)
    left = ranked_nodes(manifest, candidates, len(candidates))
    counts = Counter(map(zones.zone, kept))
    chosen: list[str] = []
    while missing:
        empty = max(0, target.zones - len(counts))
        fitting = [one for one in left if missing > empty or not counts[zones.zone(one)]]
        if not fitting:
            break
        best = min(fitting, key=lambda one: counts[zones.zone(one)])  # of equals the first
        left.remove(best)
        chosen.append(best)
        counts[zones.zone(best)] += 1
        missing -= 1
    return chosen
