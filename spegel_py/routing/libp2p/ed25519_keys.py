"""Ed25519 keys as py-libp2p has them, by means of `cryptography`.

`stand_ins` puts them in the place of `libp2p.crypto.ed25519`, which loads libsodium for the same.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from libp2p.crypto.keys import KeyPair, KeyType, PrivateKey, PublicKey


class Ed25519PublicKey(PublicKey):
    """A peer's public key."""

    def __init__(self, impl: ed25519.Ed25519PublicKey) -> None:
        self.impl = impl

    def to_bytes(self) -> bytes:
        return self.impl.public_bytes_raw()

    @classmethod
    def from_bytes(cls, key_bytes: bytes) -> Ed25519PublicKey:
        return cls(ed25519.Ed25519PublicKey.from_public_bytes(key_bytes))

    def get_type(self) -> KeyType:
        return KeyType.Ed25519

    def verify(self, data: bytes, signature: bytes) -> bool:
        try:
            self.impl.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class Ed25519PrivateKey(PrivateKey):
    """A node's own key."""

    def __init__(self, impl: ed25519.Ed25519PrivateKey) -> None:
        self.impl = impl

    @classmethod
    def new(cls, seed: bytes | None = None) -> Ed25519PrivateKey:
        return cls.from_bytes(seed) if seed else cls(ed25519.Ed25519PrivateKey.generate())

    def to_bytes(self) -> bytes:
        return self.impl.private_bytes_raw()

    @classmethod
    def from_bytes(cls, data: bytes) -> Ed25519PrivateKey:
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(data))

    def get_type(self) -> KeyType:
        return KeyType.Ed25519

    def sign(self, data: bytes) -> bytes:
        return self.impl.sign(data)

    def get_public_key(self) -> PublicKey:
        return Ed25519PublicKey(self.impl.public_key())


def create_new_key_pair(seed: bytes | None = None) -> KeyPair:
    """Return a new pair of keys, or the one of a seed of 32 bytes."""
    private_key = Ed25519PrivateKey.new(seed)
    return KeyPair(private_key, private_key.get_public_key())
