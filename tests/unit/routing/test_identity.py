"""The identity file, refused in one clear line when it is not right; the proof of the password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from libp2p.peer.id import ID

from spegel_py.errors import ConfigError
from spegel_py.routing.libp2p.frames import MAX_AGENT
from spegel_py.routing.libp2p.identity import FILE_NAME, PasswordProof, load_or_create


def test_the_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    """The first start makes a private PKCS#8 PEM file, the next one reads the same key."""
    first = load_or_create(tmp_path / "data")
    file = tmp_path / "data" / FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert load_or_create(tmp_path / "data").private_bytes_raw() == first.private_bytes_raw()


def test_a_new_identity_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the file and its name in the folder are on the disk before the identity is used."""
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    load_or_create(tmp_path)
    assert len(synced) == 2
    assert synced[1] == str(tmp_path)


def test_without_a_folder_every_start_is_somebody_new() -> None:
    """No data directory, no memory."""
    assert load_or_create(None).private_bytes_raw() != load_or_create(None).private_bytes_raw()


def test_a_key_others_can_read_is_refused(tmp_path: Path) -> None:
    """A wrong mode is named with the command that mends it."""
    load_or_create(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o644)
    with pytest.raises(ConfigError, match=r"mode 0644.*chmod 600"):
        load_or_create(tmp_path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    """An RSA key is not an identity of ours."""
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / FILE_NAME
    file.write_bytes(pem)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="no Ed25519 key"):
        load_or_create(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
)
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is no key is named, and left as it is."""
    file = tmp_path / FILE_NAME
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=FILE_NAME):
        load_or_create(tmp_path)
    assert file.read_bytes() == content


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A data directory that cannot be one is named with its flag."""
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        load_or_create(tmp_path / "data")


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
