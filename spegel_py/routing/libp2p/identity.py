"""This node's identity towards others: its libp2p key, and the proof of the cluster's password.

The key is Ed25519, kept as PKCS#8 PEM in `private.key` under the data directory: the same file and
format as Spegel's, so an installation keeps its peer id when it changes over.

A node that asks a peer's registry sends the password along. A stranger that only says hello must
not get it, so each node first proves that it knows the password. The proof is a code over both
peers' ids, which the Noise handshake has authenticated: the receiver cannot use it towards another
peer.

A stranger that connects gets a proof too, and can try passwords against it offline. scrypt makes
each try expensive: choose a long password nevertheless.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from spegel_py.errors import ConfigError
from spegel_py.tools.files import replace_file

if TYPE_CHECKING:
    from libp2p.peer.id import ID

FILE_NAME = "private.key"

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PUBLIC_KEY = b"\x00\x24\x08\x01\x12\x20"
"""Begins the peer id of an Ed25519 key: an identity multihash of the 36 bytes of its protobuf."""

_ID_SIZE = len(_PUBLIC_KEY) + 32
MAX_PEER_ID = 64
"""Characters of a peer id that are looked at; that of an Ed25519 key has 52."""

_PURPOSE = b"spegel-py basic-auth proof 1"
_COST = {"n": 1 << 14, "r": 8, "p": 1}
"""scrypt's parameters: 16 MiB and about 50 ms for each password that is tried."""


def load_or_create(data_dir: Path | None) -> Ed25519PrivateKey:
    """Return the identity kept under `data_dir`, and create it on first use.

    Without a directory the identity is a new one each time.

    Raises:
        ConfigError: the file is not an Ed25519 key in PKCS#8 PEM, is readable by other users, or
            cannot be read or written.
    """
    if data_dir is None:
        return Ed25519PrivateKey.generate()
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return _load(path) if path.exists() else _create(path)
    except OSError as error:
        raise ConfigError(
            f"the identity file {path} cannot be used: {error.strerror}; check --data-dir"
        ) from error


def _load(path: Path) -> Ed25519PrivateKey:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(
            f"the identity file {path} has mode {mode:04o}; it must be private: chmod 600 {path}"
        )
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"the identity file {path} is no unencrypted PKCS#8 PEM key; "
            "move it away to get a new one"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"the identity file {path} holds no Ed25519 key; move it away to get a new one"
        )
    return key


def _create(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_file(path, pem, mode=0o600)
    return key


def peer_name(key: Ed25519PrivateKey) -> str:
    """Return the peer id of an identity in base58, without py-libp2p, which loads later."""
    return _base58(_PUBLIC_KEY + key.public_key().public_bytes_raw())


def public_key(peer_id: str) -> Ed25519PublicKey:
    """Return the key of a peer id as `peer_name` writes it. Raises ValueError for any other id."""
    number = 0
    for digit in peer_id[:MAX_PEER_ID]:
        number = number * len(_BASE58) + _BASE58.index(digit)
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big").rjust(_ID_SIZE, b"\0")
    if not raw.startswith(_PUBLIC_KEY) or len(raw) != _ID_SIZE:
        raise ValueError("not the peer id of an Ed25519 key")
    key = Ed25519PublicKey.from_public_bytes(raw[len(_PUBLIC_KEY) :])
    if peer_id != _base58(raw):
        raise ValueError("not the one spelling of the peer id")
    return key


def _base58(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, len(_BASE58))
        digits = _BASE58[digit] + digits
    return _BASE58[0] * (len(raw) - len(raw.lstrip(b"\0"))) + digits


class PasswordProof:
    """Makes and checks proofs of one `user:password`; without one, no proof is made or accepted.

    Proofs of the `others` are accepted too.
    """

    def __init__(self, secret: bytes = b"", others: Sequence[bytes] = ()) -> None:
        self._key = _slow_key(secret) if secret else b""
        self._others = tuple(map(_slow_key, others))

    def __repr__(self) -> str:
        return f"<PasswordProof {'of a password' if self._key else 'of nothing'}>"

    def make(self, *, by: ID, to: ID) -> str:
        """Return the proof that peer `by` gives to peer `to`, empty without a password."""
        return _proof(self._key, by, to) if self._key else ""

    def is_right(self, proof: str, *, by: ID, to: ID) -> bool:
        """Return True if `by` knows a password that this node, `to`, accepts."""
        keys = (self._key, *self._others) if self._key else ()
        return any(hmac.compare_digest(proof, _proof(key, by, to)) for key in keys)


def _slow_key(secret: bytes) -> bytes:
    return hashlib.scrypt(secret, salt=_PURPOSE, dklen=32, **_COST)


def _proof(key: bytes, by: ID, to: ID) -> str:
    message = b"".join(part for peer in (by, to) for part in _sized(peer.to_bytes()))
    return base64.b64encode(hmac.digest(key, message, "sha256")).decode()


def _sized(data: bytes) -> tuple[bytes, bytes]:
    """Return the data with its length in front, so that two values in a row are unambiguous."""
    return len(data).to_bytes(2, "big"), data
