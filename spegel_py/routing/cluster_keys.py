"""The cluster's keys: the file that has them, and how they are kept up to date while a node runs.

A node with a key lets no one reach its libp2p side who lacks it (`libp2p.network_gate`). The file
has one key for each line, as 64 hexadecimal digits, or is a `swarm.key` file of go-libp2p. The
first key is the one used towards others, and all are accepted, so that keys can be replaced one
after the other without an interruption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from spegel_py.errors import ConfigError
from spegel_py.tools.files import is_public
from spegel_py.tools.secret_file import SecretFile


class KeysMode(StrEnum):
    """How the keys are used; with `accept` nodes without a key are let in too."""

    OFF = "off"
    ACCEPT = "accept"
    REQUIRE = "require"


KEY_BYTES = 32
MOST_KEYS = 4
"""Keys in a file: two are needed while one is replaced."""
MOST_BYTES = 4096
"""Bytes of a file; one with four keys and comments has a few hundred."""

_SWARM_KEY = "/key/swarm/psk/1.0.0/"
_BASE_16 = "/base16/"
_PURPOSE = b"cluster key name"


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """One key of 32 bytes, which is never printed."""

    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits by which people can compare keys without seeing them."""
        return hashlib.blake2b(self.secret, person=_PURPOSE, digest_size=4).hexdigest()


class MalformedKeys(ValueError):
    """The text of a key file is not as it has to be; the message says which line, and why."""


def parse(text: str) -> tuple[ClusterKey, ...]:
    """Return the keys of a file's text, at least one. Raises MalformedKeys.

    Blank lines, lines after `#`, and the two header lines of a `swarm.key` file are skipped.
    """
    found: list[ClusterKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        written = line.strip()
        if not written or written.startswith("#") or written in (_SWARM_KEY, _BASE_16):
            continue
        if written.startswith("/"):
            raise MalformedKeys(f"line {number} has an unknown encoding; write {_BASE_16} there")
        try:
            secret = bytes.fromhex(written)
        except ValueError:
            raise MalformedKeys(
                f"line {number} has characters that are no hexadecimal digits, or an odd number"
            ) from None
        if len(secret) != KEY_BYTES:
            raise MalformedKeys(
                f"line {number} has {len(written)} characters; a key has {2 * KEY_BYTES} "
                "hexadecimal digits, as from `openssl rand -hex 32`"
            )
        if not any(secret):
            raise MalformedKeys(f"line {number} has only zeros")
        if ClusterKey(secret) not in found:
            found.append(ClusterKey(secret))
    if not found:
        raise MalformedKeys("it has no key; write one with `openssl rand -hex 32`")
    if len(found) > MOST_KEYS:
        raise MalformedKeys(f"it has {len(found)} keys; {MOST_KEYS} are the most")
    return tuple(found)


class KeyFile(SecretFile[tuple[ClusterKey, ...]]):
    """The key file of a running node, which may change at any time.

    Raises ConfigError if the file cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, name="cluster keys", parts="keys", read=_read, fingerprints=_fingerprints
        )

    @property
    def keys(self) -> tuple[ClusterKey, ...]:
        """The keys in use, the one used towards others first."""
        return self.content


def read(path: Path) -> tuple[ClusterKey, ...]:
    """Return the keys of a file. Raises ConfigError, which names the file and the fault."""
    return _read(path)[0]


def _read(path: Path) -> tuple[tuple[ClusterKey, ...], bool]:
    try:
        with path.open("rb") as file:
            return _parsed(path, file.read(MOST_BYTES + 1)), is_public(file.fileno())
    except OSError as error:
        raise ConfigError(f"--cluster-keys: {path}: {error.strerror}") from None


def _parsed(path: Path, data: bytes) -> tuple[ClusterKey, ...]:
    if len(data) > MOST_BYTES:
        raise ConfigError(f"--cluster-keys: {path} has more than {MOST_BYTES} bytes")
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"--cluster-keys: {path} is no text") from None
    except MalformedKeys as error:
        raise ConfigError(f"--cluster-keys: {path}: {error}") from None


def _fingerprints(keys: Sequence[ClusterKey]) -> list[str]:
    return [key.fingerprint for key in keys]
