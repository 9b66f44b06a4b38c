"""The cluster's keys: the file that has them, and how they are kept up to date while a node runs.

A node with a key lets no one reach its libp2p side who lacks it (`libp2p.network_gate`). The file
has one key for each line, as 64 hexadecimal digits, or is a `swarm.key` file of go-libp2p. The
first key is the one used towards others, and all are accepted, so that keys can be replaced one
after the other without an interruption.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import aiofiles
import structlog

from spegel_py.errors import ConfigError
from spegel_py.tools.files import is_public

log = structlog.get_logger(__name__)


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
REREAD = 5.0
"""Seconds between two looks at the file: the kubelet takes a minute to bring a changed Secret."""

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


class KeyFile:
    """The key file of a running node, which may change at any time.

    Raises ConfigError if the file cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.keys = read(path)
        self.changed: Callable[[Sequence[ClusterKey]], Awaitable[None]] = _ignore
        """Is awaited with the new keys when the file has others."""
        self.fault = ""
        """The fault of the file as of the last look; the keys are then those of before."""
        self._is_public = False
        self._judge_mode(is_public=is_public(path))

    def __repr__(self) -> str:
        return f"<KeyFile {self._path} {[key.fingerprint for key in self.keys]}>"

    def describe(self) -> Mapping[str, object]:
        """Return the file's state as JSON: fingerprints instead of keys, and what is wrong."""
        return {
            "file": str(self._path),
            "keys": [key.fingerprint for key in self.keys],
            "fault": self.fault,
            "public": self._is_public,
        }

    def faults(self) -> Mapping[str, str]:
        """Return the file if a person has to mend it, with the fault and the remedy."""
        if self.fault:
            return {str(self._path): f"{self.fault}; the keys of before stay in use"}
        if self._is_public:
            return {str(self._path): f"every user can read it: chmod 600 {self._path}"}
        return {}

    async def run(self) -> None:
        """Look at the file every REREAD seconds, until cancelled."""
        while True:
            await asyncio.sleep(REREAD)
            await self.look()

    async def look(self) -> None:
        """Read the file again. A fault keeps the keys of before, and is logged once."""
        before = self.fault
        try:
            async with aiofiles.open(self._path, "rb") as file:
                found = _parsed(self._path, await file.read(MOST_BYTES + 1))
                self._judge_mode(is_public=is_public(file.fileno()))
            self.fault = ""
        except (OSError, ConfigError) as error:
            self.fault = _reason(error)
            if self.fault != before:
                log.error(
                    "cluster keys unreadable; the keys of before stay in use",
                    file=str(self._path),
                    error=self.fault,
                )
            return
        if before:
            log.info("cluster keys readable again", file=str(self._path))
        if found != self.keys:
            self.keys = found
            log.info("cluster keys changed", keys=[key.fingerprint for key in found])
            await self.changed(found)

    def _judge_mode(self, *, is_public: bool) -> None:
        was_public, self._is_public = self._is_public, is_public
        if is_public and not was_public:
            log.warning(
                "every user of this machine can read the cluster keys",
                file=str(self._path),
                remedy=f"chmod 600 {self._path}",
            )


async def _ignore(keys: Sequence[ClusterKey]) -> None:
    """Do nothing with new keys."""


def read(path: Path) -> tuple[ClusterKey, ...]:
    """Return the keys of a file. Raises ConfigError, which names the file and the fault."""
    try:
        with path.open("rb") as file:
            return _parsed(path, file.read(MOST_BYTES + 1))
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


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
