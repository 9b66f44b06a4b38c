"""The images of a node with their replicas, as `/debug/replicas` serves them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from spegel_py.oci.digest import Digest
from spegel_py.replicas.keep_plan import KeeperView, target
from spegel_py.replicas.replica_plan import ImageState
from spegel_py.replicas.replica_rules import ReplicaRules
from spegel_py.store.base import Replica


def listed_images(
    states: Mapping[Digest, ImageState],
    *,
    view: KeeperView,
    rules: ReplicaRules,
    held: Mapping[Digest, Replica],
    since: Mapping[Digest, float],
) -> list[Mapping[str, object]]:
    """Return the images by name, as JSON.

    `zones` are those of the replicas, "" for nodes without one. `kept_since` is the Unix time at
    which this run of the node found or made its replica, and `reason` the purpose of that.

    Args:
        view: the other nodes.
        held: this node's replicas.
        since: the Unix times since which they are known.
    """
    return [
        {
            "manifest": str(manifest),
            "names": state.names,
            "size": state.size,
            "runtime": state.is_pulled,
            "replica": state.is_held,
            "replicas": len(state.kept(view.own)),
            "target": target(rules, view, extra=state.extra).copies,
            "holders": len(state.holders) + 1,
            "zones": sorted(view.zones.covered(state.kept(view.own))),
            "heat": round(state.heat, 1),
            "selected": not state.is_excluded,
            "kept_since": round(since[manifest], 3) if manifest in since else None,
            "reason": held[manifest].reason.value if manifest in held else None,
        }
        for manifest, state in sorted(states.items(), key=lambda one: (one[1].names, one[1].size))
    ]
