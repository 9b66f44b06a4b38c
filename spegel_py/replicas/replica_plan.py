"""Which of its images this node holds as replicas, and which replicas it releases. Pure.

Every node that has an image decides for itself, by the same ranking of the nodes that have it. So
the nodes agree without a message, as long as they see the same peers. While they do not, an image
has a replica more for some time, and never one less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_rules import (
    MAY_GROW,
    MUST_SHRINK,
    SHRINK_FROM,
    SHRINK_TO,
    SURPLUS,
    DiskUse,
    ReplicaRules,
)
from spegel_py.replicas.zone_spread import (
    ONE_ZONE,
    SPREAD_PATIENCE,
    ReplicaTarget,
    ZoneMap,
    choose_spread,
    shortage,
    target_of,
)


class Why(StrEnum):
    """The cause of a decision."""

    FLOOR = "floor"
    HEAT = "heat"
    RENEWAL = "renewal"
    UNWANTED = "unwanted"
    SURPLUS = "surplus"
    DISK = "disk"
    OFF = "off"


class Action(StrEnum):
    """What is done with an image."""

    HOLD = "hold"
    RENEW = "renew"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action for one image."""

    manifest: Digest
    action: Action
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageState:
    """One image of this node, and the other nodes that have it.

    Args:
        names: the image's tags, and its names by digest.
        pulled: the Unix times of the names' pulls.
        root: the digest by which the image is pulled; None if that is the manifest's.
        alone: bytes that a release would free: content that no other image here has.
        is_pulled: True while the runtime has the image.
        is_held: True for a replica of this node.
        is_preheated: True for a replica that a pre-heat made, which lasts until its own time.
        is_excluded: True if the filters do not let the image be replicated.
        is_leaving: True while this node drains: its replica does not count.
        idle: seconds since a runtime was last seen to have the image.
        renewal_in: seconds until the replica is due for renewal.
        holders: ids of the other nodes that have the image's content, and do not drain.
        replicas: ids of the other nodes whose replicas count.
        heat: the pulls of the image in the cluster, of which the older ones count less.
        extra: replicas beyond the floor that this is worth.
        missing_for: seconds for which replicas have been missing.
        surplus_for: seconds for which there have been more replicas than wanted.
    """

    manifest: Digest
    names: tuple[str, ...] = ()
    pulled: Mapping[str, float] = field(default_factory=dict)
    root: Digest | None = None
    size: int
    alone: int = 0
    is_pulled: bool
    is_held: bool
    is_preheated: bool = False
    is_excluded: bool = False
    is_leaving: bool = False
    idle: float = 0.0
    renewal_in: float = 0.0
    holders: frozenset[str] = frozenset()
    replicas: frozenset[str] = frozenset()
    heat: float = 0.0
    extra: int = 0
    missing_for: float = 0.0
    surplus_for: float = 0.0

    def kept(self, own: str) -> frozenset[str]:
        """Return the ids of the nodes whose replicas count, this node's `own` id included."""
        return self.replicas | ({own} if self.is_held and not self.is_leaving else set())


def plan(
    images: Iterable[ImageState],
    *,
    own: str,
    rules: ReplicaRules,
    disk: DiskUse,
    zones: ZoneMap = ONE_ZONE,
) -> list[Decision]:
    """Return the decisions of one scan. `own` is this node's id."""
    given = list(images)
    decisions = [
        found
        for image in given
        if (found := _decide(image, own=own, rules=rules, disk=disk, zones=zones))
    ]
    released = {one.manifest for one in decisions if one.action is Action.RELEASE}
    kept = [image for image in given if image.is_held and image.manifest not in released]
    shrunk = _shrink(kept, rules=rules, disk=disk)
    gone = [Decision(one.manifest, Action.RELEASE, Why.DISK) for one in shrunk]
    dropped = {one.manifest for one in gone}
    return [one for one in decisions if one.manifest not in dropped] + gone


def missing_replicas(image: ImageState, target: ReplicaTarget, *, own: str, zones: ZoneMap) -> int:
    """Return how many replicas an image is short of the target, at the node with the id `own`."""
    return shortage(image.kept(own), target, zones)


def _decide(
    image: ImageState, *, own: str, rules: ReplicaRules, disk: DiskUse, zones: ZoneMap
) -> Decision | None:
    if image.is_held and image.is_preheated:
        return None
    if image.is_held:
        if why := _release(image, own=own, rules=rules, zones=zones):
            return Decision(image.manifest, Action.RELEASE, why)
        if image.renewal_in <= 0:
            return Decision(image.manifest, Action.RENEW, Why.RENEWAL)
        return None
    if _should_hold(image, own=own, rules=rules, zones=zones) and _may_grow(
        image, rules=rules, disk=disk
    ):
        is_low = missing_replicas(image, target_of(rules, zones), own=own, zones=zones) > 0
        return Decision(image.manifest, Action.HOLD, Why.FLOOR if is_low else Why.HEAT)
    return None


def _should_hold(image: ImageState, *, own: str, rules: ReplicaRules, zones: ZoneMap) -> bool:
    """Return True if this node is one of those that add a missing replica.

    The nodes that have the image and no replica of it are ranked. As many of the first ones hold it
    as replicas are missing. The last one is left to another zone for SPREAD_PATIENCE.
    """
    if not image.is_pulled or image.is_excluded or image.is_leaving:
        return False
    if image.size > rules.max_image:
        return False
    target = target_of(rules, zones, extra=image.extra)
    if image.missing_for >= SPREAD_PATIENCE and len(image.kept(own)) < target.copies:
        target = target.anywhere
    candidates = (image.holders - image.replicas) | {own}
    return own in choose_spread(
        image.manifest, candidates, kept=image.replicas, target=target, zones=zones
    )


def _may_grow(image: ImageState, *, rules: ReplicaRules, disk: DiskUse) -> bool:
    """Return True if the disk has room for what the kubelet cannot free any more."""
    alone = disk.alone + image.alone
    return disk.share < MAY_GROW and alone <= rules.max_disk * disk.total


def _release(image: ImageState, *, own: str, rules: ReplicaRules, zones: ZoneMap) -> Why | None:
    # Case 1: replicas are off, or not for this image.
    if rules.floor == 0 or image.is_excluded:
        return Why.OFF
    # Case 2: no runtime had the image for long. Nodes whose runtimes have it add a replica then.
    if rules.keep is not None and not image.is_pulled and image.idle > rules.keep:
        return Why.UNWANTED
    # Case 3: there are too many replicas. The last ones of the ranking in the fullest zones go.
    if image.surplus_for >= SURPLUS and not image.is_leaving:
        target = target_of(rules, zones, extra=image.extra).anywhere
        first = choose_spread(
            image.manifest, image.replicas | {own}, kept=(), target=target, zones=zones
        )
        if own not in first:
            return Why.SURPLUS
    return None


def _shrink(held: list[ImageState], *, rules: ReplicaRules, disk: DiskUse) -> list[ImageState]:
    """Return the replicas to release for want of space, the most dispensable first.

    An image that the runtime has too frees nothing. One with other replicas goes before an only
    one, the longest unused first, then the largest.

    Case 1: replicas take more than their share of the disk. They go until they fit.
    Case 2: the disk is full. Images with other replicas go from SHRINK_FROM until SHRINK_TO, the
    only ones from MUST_SHRINK.
    """
    order = sorted(
        (image for image in held if not image.is_pulled and image.alone),
        key=lambda image: (-len(image.replicas), -image.idle, -image.alone, str(image.manifest)),
    )
    found: list[ImageState] = []
    left = disk
    for image in order:
        is_too_much = left.alone > rules.max_disk * left.total
        is_full = disk.share >= SHRINK_FROM and left.share > SHRINK_TO
        if not is_too_much and not (is_full and (image.replicas or left.share >= MUST_SHRINK)):
            break
        found.append(image)
        left = replace(left, used=left.used - image.alone, alone=left.alone - image.alone)
    return found
