"""The images of this node, as a scan finds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import is_tag
from spegel_py.store.base import PlatformImage, Replica, ReplicaReason


@dataclass(slots=True)
class FoundImage:
    """An image of this node: its content, and its names in the runtime with their pull times."""

    image: PlatformImage
    names: dict[str, float] = field(default_factory=dict)
    is_pulled: bool = False


def is_preheated(replica: Replica | None) -> bool:
    """Return True for a replica that a pre-heat made."""
    return replica is not None and replica.reason is ReplicaReason.PREHEAT


def bytes_alone(
    found: Mapping[Digest, FoundImage], held: Mapping[Digest, Replica]
) -> dict[Digest, int]:
    """Return for each image the bytes that only a replica of it keeps, or would keep.

    Content that an image of the runtime has too counts for none. Content of several replicas counts
    for the first one.
    """
    counted = {blob for one in found.values() if one.is_pulled for blob in one.image.blobs}
    alone: dict[Digest, int] = {}
    for manifest in sorted(held, key=str):
        own = held[manifest].image.blobs - counted
        alone[manifest] = sum(blob.size for blob in own)
        counted |= own
    return alone


def tags(names: Mapping[str, float]) -> dict[str, float]:
    """Return the names that are tags."""
    return {name: pulled for name, pulled in names.items() if is_tag(name)}
