"""Observers with keys of their own, for tests of tags."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.oci.digest import Digest
from spegel_py.routing.libp2p.identity import peer_name
from spegel_py.routing.tag_observation import TagObservation

NAME = "registry.example/app:1"
OLD, NEW, EVIL = (Digest.of(each) for each in (b"old", b"new", b"evil"))


class Observer:
    """A node with a key."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.id = peer_name(self.key)

    def saw(self, digest: Digest, seen: float, *, name: str = NAME) -> TagObservation:
        """Return its observation."""
        return TagObservation.made(
            name, digest, seen=int(seen), observer=self.id, sign=self.key.sign
        )
