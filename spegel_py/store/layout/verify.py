"""Which blobs are what their names say: each is hashed before it is first offered, and again when it changed.

A file that does not match may be damaged or may still be being written. It is not hashed again until it
changed and then lay still for a while, so that a slow copy costs a few hashings and not one for each write.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

import structlog

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store.files import Signature

log = structlog.get_logger(__name__)

CHUNK = 1024 * 1024
"""Bytes hashed at a time; hashlib lets other threads run meanwhile."""

PATIENCE = 4.0
"""A changed file must lie still this many times as long as hashing it took, so that hashing stays rare."""


class BlobVerdict(Enum):
    """What is known of a file."""

    GOOD = "its content is its digest's"
    BAD = "its content is not its digest's"
    UNKNOWN = "it should be hashed"
    UNSETTLED = "it is still changing"


@dataclass(frozen=True, slots=True)
class _Hashed:
    signature: Signature
    is_good: bool
    took: float


class BlobVerdicts:
    """The memory of what was hashed; pure, so that its patience can be tested without files.

    `settle` is how many seconds a file that did not match must lie still before it is hashed again, and
    before it is called damaged. Times are seconds since the epoch, as ctime is.
    """

    def __init__(self, *, settle: float) -> None:
        self._settle = settle
        self._hashed: dict[Digest, _Hashed] = {}
        self._reported: set[Digest] = set()

    def __repr__(self) -> str:
        return f"<Verdicts good={sum(one.is_good for one in self._hashed.values())} of={len(self._hashed)}>"

    def of(self, digest: Digest, signature: Signature, now: float) -> BlobVerdict:
        """Return what is known of the file with this name and signature."""
        judged = self._hashed.get(digest)
        if judged is None:
            return BlobVerdict.UNKNOWN
        if judged.signature == signature:
            return BlobVerdict.GOOD if judged.is_good else BlobVerdict.BAD
        is_due = judged.is_good or now >= self.due(digest, signature, now)
        return BlobVerdict.UNKNOWN if is_due else BlobVerdict.UNSETTLED

    def due(self, digest: Digest, signature: Signature, now: float) -> float:
        """Return when a file that did not match has lain still for long enough."""
        changed = min(
            signature.ctime_ns / 1e9, now
        )  # a clock that was set back must not make us wait for it
        return changed + max(self._settle, PATIENCE * self._hashed[digest].took)

    def record(self, digest: Digest, signature: Signature, *, is_good: bool, took: float) -> None:
        """Remember the outcome of hashing, and how many seconds it took."""
        self._hashed[digest] = _Hashed(signature, is_good, took)
        if is_good:
            self._reported.discard(digest)

    def should_report(self, digest: Digest, signature: Signature, now: float) -> bool:
        """Say, once, that a file with the verdict BAD has lain still: it is damaged, not unfinished."""
        if digest in self._reported or now < self.due(digest, signature, now):
            return False
        self._reported.add(digest)
        return True

    def keep(self, digests: Collection[Digest]) -> None:
        """Forget all but these."""
        for digest in self._hashed.keys() - set(digests):
            del self._hashed[digest]
            self._reported.discard(digest)


@dataclass(slots=True)
class _Hashing:
    task: asyncio.Task[bool]
    stop: threading.Event
    waiters: int = 0


@dataclass(slots=True)
class Verifier:
    """Hashes files in threads, each file once however many wait for it, and remembers the verdicts."""

    verdicts: BlobVerdicts
    _running: dict[tuple[Digest, Signature], _Hashing] = field(default_factory=dict)

    async def check(self, digest: Digest, fd: int) -> int:
        """Return the size of the open file if it is the digest's content, else raise ContentNotFound."""
        signature = Signature.of(os.fstat(fd))
        verdict = self.verdict(digest, signature)
        if verdict is BlobVerdict.UNKNOWN:
            verdict = (
                BlobVerdict.GOOD if await self._hash(digest, signature, fd) else BlobVerdict.BAD
            )
        if verdict is not BlobVerdict.GOOD:
            raise ContentNotFound(f"the blob {digest} is here but {verdict.value}")
        return signature.size

    def verdict(self, digest: Digest, signature: Signature) -> BlobVerdict:
        """Return what is known of the file; a damaged one is named in the log, once."""
        now = time.time()
        verdict = self.verdicts.of(digest, signature, now)
        if verdict is BlobVerdict.BAD and self.verdicts.should_report(digest, signature, now):
            log.warning("damaged blob is not served", digest=str(digest), size=signature.size)
        return verdict

    async def _hash(self, digest: Digest, signature: Signature, fd: int) -> bool:
        key = (digest, signature)
        hashing = self._running.get(key)
        if hashing is None or hashing.stop.is_set():
            stop = threading.Event()
            hashing = _Hashing(
                asyncio.create_task(self._judge(digest, signature, os.dup(fd), stop)), stop
            )
            self._running[key] = hashing
        hashing.waiters += 1
        try:
            return await asyncio.shield(hashing.task)
        finally:
            hashing.waiters -= 1
            if not hashing.waiters:
                hashing.stop.set()
                if self._running.get(key) is hashing:
                    del self._running[key]

    async def _judge(
        self, digest: Digest, signature: Signature, fd: int, stop: threading.Event
    ) -> bool:
        started = time.monotonic()
        is_good = await asyncio.to_thread(_matches, digest, signature, fd, stop)
        if not stop.is_set():
            self.verdicts.record(
                digest, signature, is_good=is_good, took=time.monotonic() - started
            )
            self.verdict(digest, signature)
        return is_good


def _matches(digest: Digest, signature: Signature, fd: int, stop: threading.Event) -> bool:
    """Say whether the whole file is the digest's content and did not change meanwhile; closes `fd`."""
    hasher, offset = digest.hasher(), 0
    try:
        while not stop.is_set() and (piece := os.pread(fd, CHUNK, offset)):
            hasher.update(piece)
            offset += len(piece)
        return hasher.hexdigest() == digest.hex and Signature.of(os.fstat(fd)) == signature
    except OSError as error:
        log.warning("blob cannot be read", digest=str(digest), error=error.strerror)
        return False
    finally:
        os.close(fd)
