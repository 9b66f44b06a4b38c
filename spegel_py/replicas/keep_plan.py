"""Which other nodes this node asks to keep its images. Pure.

The nodes that have an image keep it themselves as far as they suffice (`replica_plan`). For the
rest, one of them asks others: the *speaker*, which is the first in the rank of the nodes that have
it. It asks the first ones in the rank of the other nodes. All nodes rank alike, so a second speaker
asks the same nodes, and they have nothing more to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_plan import ImageState
from spegel_py.replicas.replica_rules import ReplicaRules
from spegel_py.replicas.zone_spread import (
    ONE_ZONE,
    SPREAD_PATIENCE,
    ReplicaTarget,
    ZoneMap,
    choose_spread,
    target_of,
)

NEW = 25.0
"""Seconds for which an image is known before others are asked to keep it. Where many nodes begin to
run an image at the same time, they are about to have it anyway."""

UNWILLING = 100.0
"""Seconds after which the nodes that have an image, and do not keep it, are not waited for."""

BRAKED = 900.0
"""Seconds for which even a single copy waits after many nodes were lost: a zone that is away for a
quarter of an hour moves nothing."""

MAX_TAKING = 4
"""Images that the nodes asked by one speaker take at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperView:
    """The other nodes, as the planning node sees them.

    Args:
        own: this node's id.
        keepers: ids of the connected nodes that keep replicas, and do not drain.
        is_braked: True if so many nodes were lost lately that images wait for them.
        is_leaving: True while this node drains.
        zones: the zones of all nodes.
    """

    own: str
    keepers: frozenset[str]
    is_braked: bool = False
    is_leaving: bool = False
    zones: ZoneMap = ONE_ZONE


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepState:
    """An image of this node, and the nodes that were asked to keep it.

    Args:
        known_for: seconds for which this node has known the image.
        missing_for: seconds for which replicas have been missing.
        promised: ids of the nodes that are taking it.
        refused: ids of the nodes that do not want to be asked yet.
    """

    image: ImageState
    known_for: float
    missing_for: float
    promised: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeeperChoice:
    """An image, and the node to ask to keep it."""

    manifest: Digest
    node: str


def target(rules: ReplicaRules, view: KeeperView, *, extra: int = 0) -> ReplicaTarget:
    """Return the replicas that can be had of an image: not more than there are nodes.

    Args:
        extra: replicas beyond the floor that the image is worth.
    """
    nodes = len(view.keepers) + (not view.is_leaving)
    return target_of(rules, view.zones, extra=extra, nodes=nodes)


def choose_keepers(
    states: Iterable[KeepState], *, view: KeeperView, rules: ReplicaRules, without: int = 0
) -> list[KeeperChoice]:
    """Return the nodes to ask, the rarest images first, then the hottest, then the smallest.

    Args:
        without: images that nodes are taking at this node's request already.
    """
    given = [one for one in states if is_speaker(one.image, view) and not _waits(one, view)]
    given.sort(key=lambda one: (_copies(one.image), -one.image.extra, *_size_of(one.image)))
    found = [choice for one in given for choice in _choices(one, view=view, rules=rules)]
    return found[: max(0, MAX_TAKING - without)]


def is_speaker(image: ImageState, view: KeeperView) -> bool:
    """Return True if this node asks for the image.

    The speaker is one of the nodes that keep replicas; other holders do not ask. A node that drains
    asks for the images that no such node has.
    """
    holders = (image.holders | image.replicas) & view.keepers
    if view.is_leaving:
        return not holders
    return ranked_nodes(image.manifest, holders | {view.own}, 1) == [view.own]


def _waits(state: KeepState, view: KeeperView) -> bool:
    """Return True if nobody is asked to keep the image now.

    Case 1: it is new here.
    Case 2: many nodes were lost, and may be back soon. A single copy does not wait for long.
    """
    if state.known_for < NEW:
        return True
    is_single = _copies(state.image) == 1
    return view.is_braked and not (is_single and state.missing_for >= BRAKED)


def _choices(state: KeepState, *, view: KeeperView, rules: ReplicaRules) -> Iterator[KeeperChoice]:
    image = state.image
    if image.is_excluded or image.size > rules.max_image:
        return
    wanted, zones = target(rules, view, extra=image.extra), view.zones
    promised = state.promised & view.keepers
    kept = image.kept(view.own) | promised
    if state.missing_for >= SPREAD_PATIENCE and len(kept) < wanted.copies:
        wanted = wanted.anywhere
    # Nodes that have the image keep it without being asked, unless they have not for long.
    if state.missing_for < UNWILLING:
        kept |= set(
            choose_spread(
                image.manifest, _volunteers(image, view), kept=kept, target=wanted, zones=zones
            )
        )
    others = view.keepers - image.holders - kept - state.refused
    for node in choose_spread(image.manifest, others, kept=kept, target=wanted, zones=zones):
        yield KeeperChoice(image.manifest, node)


def _volunteers(image: ImageState, view: KeeperView) -> Collection[str]:
    """Return the nodes that have the image and no replica of it, and are about to keep it."""
    is_own = image.is_pulled and not image.is_held and not view.is_leaving
    own = {view.own} if is_own else set()
    return ((image.holders - image.replicas) & view.keepers) | own


def _size_of(image: ImageState) -> tuple[int, str]:
    return image.size, str(image.manifest)


def _copies(image: ImageState) -> int:
    """Return the number of nodes that have the image, this one included."""
    return len(image.holders | image.replicas) + 1
