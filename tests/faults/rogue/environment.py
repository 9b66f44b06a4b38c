"""The environment of the rogue, which all attacks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spegel_py.routing.libp2p.keys import name_hash
from tests.faults.rogue.registry import RogueRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The nodes that the rogue attacks, and the image they pull.

    All ports are a node's default ports.
    """

    targets: Sequence[str]
    """The addresses of the nodes."""
    sizes: Mapping[str, int]
    """The bytes of each blob of the image, by digest."""
    registry: str
    """The address of the registry that holds the image."""
    http: RogueRegistry

    @property
    def keys(self) -> list[bytes]:
        """The keys that an honest holder of the image announces, except for tags."""
        return [name_hash(digest) for digest in self.sizes]

    @property
    def largest(self) -> str:
        """The digest of the largest layer."""
        return max(self.sizes, key=lambda digest: self.sizes[digest])
