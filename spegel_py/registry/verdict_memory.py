"""The answers of registries that a node remembers, for minutes in memory and for a day on disk.

No credentials are kept. In memory they are hashed with a key that each start makes anew. On disk
stands a hash that takes long to compute (scrypt, RFC 7914), so that a stolen file gives no
passwords away.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from spegel_py.oci.digest import Digest
from spegel_py.registry.private_rules import CHALLENGE_FOR, KEPT_FOR, AccessOutcome, kept_for
from spegel_py.tools.bounded import BoundedDict
from spegel_py.tools.files import replace_file
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

FILE = "private-images.json"
MAX_VERDICTS, MAX_KEPT, MAX_CHALLENGES = 4096, 1024, 256
"""Verdicts in memory, verdicts on disk, and registries whose challenge is remembered."""
MAX_FILE = 1024 * 1024
"""Bytes of the largest file that is read. A full file has 600 KB."""

_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 16}
"""16 MB and 50 ms for each hash, which is made at most once in ten minutes for one user."""


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials for a repository: a hash of the credentials, and `registry/repository`."""

    who: bytes
    repository: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A verdict that counts until some monotonic second, with digests of tags that it named."""

    outcome: AccessOutcome
    until: float
    tags: Mapping[str, Digest] = field(default_factory=dict)


class VerdictMemory:
    """Remembers verdicts and challenges.

    Args:
        folder: where the file is kept; None to keep nothing beyond this process.
        clock: monotonic seconds.
        now: Unix time.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = folder / FILE if folder else None
        self._clock = clock
        self._now = now
        self._key = secrets.token_bytes(32)
        self._salt = secrets.token_bytes(16)
        self._verdicts: BoundedDict[Access | tuple[Access, str], _Verdict] = BoundedDict(
            limit=MAX_VERDICTS
        )
        self._kept: BoundedDict[str, float] = BoundedDict(limit=MAX_KEPT)
        self._challenges: BoundedDict[str, tuple[str, float]] = BoundedDict(limit=MAX_CHALLENGES)
        self._saving: asyncio.Task[None] | None = None
        self._is_dirty = False
        self._load()

    def __repr__(self) -> str:
        return f"<VerdictMemory {len(self._verdicts)} verdicts, {len(self._kept)} kept>"

    def access(self, authorization: str, repository: str) -> Access:
        """Return the key under which the verdicts for these credentials are remembered."""
        return Access(
            hmac.digest(self._key, authorization.encode(errors="surrogateescape"), "sha256"),
            repository,
        )

    def find(self, access: Access, reference: str) -> AccessOutcome | None:
        """Return the verdict that counts now: for all of the repository, else for a reference."""
        for key in (access, (access, reference)):
            if (found := self._find(key)) is not None:
                return found.outcome
        return None

    def digest(self, access: Access, tag: str) -> Digest | None:
        """Return the digest that the registry named for a tag with the verdict that counts now."""
        found = self._find(access)
        return found.tags.get(tag) if found else None

    def _find(self, key: Access | tuple[Access, str]) -> _Verdict | None:
        found = self._verdicts.get(key)
        return found if found is not None and self._clock() < found.until else None

    def record(
        self,
        access: Access,
        outcome: AccessOutcome,
        seconds: float,
        reference: str = "",
        digest: Digest | None = None,
    ) -> None:
        """Record a verdict for `seconds`.

        Args:
            reference: the tag or digest that was asked for. An unknown one says nothing about
                others.
            digest: the digest of this tag.
        """
        until = self._clock() + seconds
        if outcome is AccessOutcome.UNKNOWN:
            self._verdicts[access, reference] = _Verdict(outcome, until)
            return
        tags = {reference: digest} if digest is not None else {}
        self._verdicts[access] = _Verdict(outcome, until, tags)

    async def keep(self, authorization: str, repository: str) -> None:
        """Keep a yes for the time when the registry is away."""
        seconds = kept_for(authorization, self._now())
        if seconds > 0:
            self._kept[await self._slow_hash(authorization, repository)] = self._now() + seconds
            self._save()

    async def drop(self, authorization: str, repository: str) -> None:
        """Forget a kept yes, after a no."""
        if not self._kept:
            return
        if self._kept.pop(await self._slow_hash(authorization, repository), None) is not None:
            self._save()

    async def was_allowed(self, authorization: str, repository: str) -> bool:
        """Return True if the registry said yes lately."""
        if not self._kept:
            return False
        end = self._kept.get(await self._slow_hash(authorization, repository), 0.0)
        return self._now() < end <= self._now() + KEPT_FOR

    def challenge(self, registry: str, within: float = CHALLENGE_FOR) -> str | None:
        """Return a challenge that a registry gave `within` the last seconds.

        It is empty for a registry without a challenge, and None if it is not known.
        """
        text, at = self._challenges.get(registry, ("", 0.0))
        return text if 0 <= self._now() - at < within else None

    def record_challenge(self, registry: str, challenge: str) -> None:
        """Record the challenge of a registry that has just answered; empty for none."""
        is_new = self.challenge(registry) != challenge
        self._challenges[registry] = (challenge, self._now())
        if is_new:
            self._save()

    async def _slow_hash(self, authorization: str, repository: str) -> str:
        text = f"{repository}\n{authorization}".encode(errors="surrogateescape")
        found = await run_detached(
            lambda: hashlib.scrypt(text, salt=self._salt, **_SCRYPT), name="verdict"
        )
        return found.hex()

    def _load(self) -> None:
        """Read the file. One that is missing or malformed counts as empty."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                given = json.loads(file.read(MAX_FILE))
            self._take(given)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning(
                "verdicts of registries unreadable; they are asked again",
                file=str(self._path),
                error=type(error).__name__,
            )

    def _take(self, given: Any) -> None:
        salt = bytes.fromhex(given["salt"])
        kept = [(str(key), float(end)) for key, end in given["allowed"].items()]
        challenges = [
            (str(registry), str(text), float(at))
            for registry, (text, at) in given["challenges"].items()
        ]
        if len(salt) != len(self._salt):
            raise ValueError("the salt has another length")
        self._salt = salt
        for key, end in kept:
            self._kept[key] = end
        for registry, text, at in challenges:
            self._challenges[registry] = (text, at)

    def _save(self) -> None:
        """Write the file soon. Changes of the meantime go with it."""
        self._is_dirty = True
        if self._path is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._write(self._path), name="verdicts")

    async def _write(self, path: Path) -> None:
        while self._is_dirty:
            self._is_dirty = False
            now = self._now()
            data = json.dumps(
                {
                    "salt": self._salt.hex(),
                    "allowed": {key: end for key, end in self._kept.items() if end > now},
                    "challenges": {
                        registry: list(each) for registry, each in self._challenges.items()
                    },
                }
            ).encode()
            try:
                await run_detached(
                    lambda data=data: _replace(path, data),  # type: ignore[misc]
                    name="verdicts",
                )
            except OSError as error:
                log.warning(
                    "verdicts of registries not written; after a restart the registries are asked",
                    file=str(path),
                    error=error.strerror or str(error),
                )


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data, mode=0o600)
