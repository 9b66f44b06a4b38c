"""This node's libp2p identity: an Ed25519 key, kept as PKCS#8 PEM in `private.key` under the data directory.

The same file and format as Spegel's, so an installation keeps its peer id when it changes over.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.errors import ConfigError
from spegel_py.tools.files import replace_file

FILE_NAME = "private.key"


def load_or_create(data_dir: Path | None) -> Ed25519PrivateKey:
    """Return the identity kept under `data_dir`, making it on first use; without a directory a fresh one each time.

    Raises ConfigError naming the file if it is not an Ed25519 key in PKCS#8 PEM, is readable by others, or cannot be
    read or written.
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
            f"the identity file {path} is no unencrypted PKCS#8 PEM key; move it away to get a new one"
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
