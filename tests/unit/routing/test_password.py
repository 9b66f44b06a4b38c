"""A proof of the password convinces the peer that it was made for, and nobody else."""

from __future__ import annotations

from libp2p.peer.id import ID

from spegel_py.routing.libp2p.frames import MAX_AGENT
from spegel_py.routing.libp2p.identity import PasswordProof

A, B, C = (ID(b"\x12\x20" + letter * 32) for letter in (b"a", b"b", b"c"))
KNOWS = PasswordProof(b"node:secret")


def test_who_knows_the_password_proves_it() -> None:
    """The proof does not contain the password, and fits into a hello."""
    proof = KNOWS.make(by=A, to=B)
    assert PasswordProof(b"node:secret").is_right(proof, by=A, to=B)
    assert "secret" not in proof
    assert 0 < len(proof) <= MAX_AGENT


def test_a_proof_is_good_between_two_peers_only() -> None:
    """The receiver of a proof cannot use it towards another peer, nor towards its sender."""
    proof = KNOWS.make(by=A, to=B)
    assert not KNOWS.is_right(proof, by=A, to=C)
    assert not KNOWS.is_right(proof, by=C, to=B)
    assert not KNOWS.is_right(proof, by=B, to=A)


def test_another_password_or_none_proves_nothing() -> None:
    """Two nodes without one do not prove each other anything either."""
    nothing = PasswordProof()
    assert not KNOWS.is_right(PasswordProof(b"node:other").make(by=A, to=B), by=A, to=B)
    assert nothing.make(by=A, to=B) == ""
    assert not nothing.is_right("", by=A, to=B)
    assert not KNOWS.is_right("", by=A, to=B)
    assert not KNOWS.is_right("?" * 44, by=A, to=B)
