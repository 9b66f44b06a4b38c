"""Proving to a peer that this node knows the cluster's password, without telling it.

A node that asks a peer's registry sends the password along. It must not reach a stranger that only says hello, so
each node proves first that it knows it. The proof is a code over both peers' ids, which the Noise handshake has
authenticated: a peer that was given one can use it towards nobody else.

A stranger that connects is given a proof too, and can try passwords against it at its leisure. scrypt makes each
try expensive: choose a long password nevertheless.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from libp2p.peer.id import ID

_PURPOSE = b"spegel-py basic-auth proof 1"
_COST = {"n": 1 << 14, "r": 8, "p": 1}
"""scrypt's parameters: 16 MiB and about 50 ms for each password that is tried."""


class PasswordProof:
    """Makes and checks proofs of one `user:password`; without one it makes none and believes none."""

    def __init__(self, secret: bytes = b"") -> None:
        self._key = hashlib.scrypt(secret, salt=_PURPOSE, dklen=32, **_COST) if secret else b""

    def __repr__(self) -> str:
        return f"<PasswordProof {'of a password' if self._key else 'of nothing'}>"

    def make(self, *, by: ID, to: ID) -> str:
        """Return the proof that peer `by` gives to peer `to`, empty without a password."""
        if not self._key:
            return ""
        message = b"".join(part for peer in (by, to) for part in _sized(peer.to_bytes()))
        return base64.b64encode(hmac.digest(self._key, message, "sha256")).decode()

    def is_right(self, proof: str, *, by: ID, to: ID) -> bool:
        """Return True if `by` knows the same password as this node, `to`."""
        return bool(self._key) and hmac.compare_digest(proof, self.make(by=by, to=to))


def _sized(data: bytes) -> tuple[bytes, bytes]:
    """Return the data with its length in front, so that two of them can be told apart in a row."""
    return len(data).to_bytes(2, "big"), data
