"""Verification of a layout's blobs: each is hashed before it is first offered, and after each
change.

A wrong file may be damaged or still being written. It is hashed again only after it changed and
then stayed unchanged for a while. So a slow copy costs a few hashes, and not one for each write.
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
from spegel_py.store.file_access import Signature

log = structlog.get_logger(__name__)

CHUNK = 1024 * 1024
"""Bytes hashed at a time. hashlib lets other threads run meanwhile."""

UNCHANGED_FACTOR = 4.0
"""Time for which a changed file must stay unchanged, as a multiple of its hashing time.

It keeps hashing rare.
"""


class BlobVerdict(Enum):
    """The state of a file's verification."""

    GOOD = "its content is its digest's"
    BAD = "its content is not its digest's"
    UNKNOWN = "it should be hashed"
    UNSETTLED = "it is still changing"


@dataclass(frozen=True, slots=True)
class _Hashed:
    signature: Signature
    is_good: bool
    seconds: float


class BlobVerdicts:
    """The results of hashing. Pure: time is passed in, as seconds since the epoch.

    Args:
        settle: Seconds for which a wrong file must stay unchanged before it is hashed again, and
            before it is called damaged.
    """

    def __init__(self, *, settle: float) -> None:
        self._settle = settle
        self._hashed: dict[Digest, _Hashed] = {}
        self._reported: set[Digest] = set()

    def __repr__(self) -> str:
        good = sum(one.is_good for one in self._hashed.values())
        return f"<BlobVerdicts good={good} of={len(self._hashed)}>"

    def of(self, digest: Digest, signature: Signature, now: float) -> BlobVerdict:
        """Return the verdict on the file with this name and signature."""
        judged = self._hashed.get(digest)
        # Case 1: the file was never hashed.
        if judged is None:
            return BlobVerdict.UNKNOWN
        # Case 2: it is unchanged since it was hashed.
        if judged.signature == signature:
            return BlobVerdict.GOOD if judged.is_good else BlobVerdict.BAD
        # Case 3: it changed. A right file is hashed again at once, a wrong one after a wait.
        is_due = judged.is_good or now >= self.due(digest, signature, now)
        return BlobVerdict.UNKNOWN if is_due else BlobVerdict.UNSETTLED

    def due(self, digest: Digest, signature: Signature, now: float) -> float:
        """Return the time at which a wrong file has stayed unchanged for long enough."""
        # a clock that was set back must not lengthen the wait
        changed = min(signature.ctime_ns / 1e9, now)
        return changed + max(self._settle, UNCHANGED_FACTOR * self._hashed[digest].seconds)

    def record(
        self, digest: Digest, signature: Signature, *, is_good: bool, seconds: float
    ) -> None:
        """Record the result of hashing, and the seconds that it took."""
        self._hashed[digest] = _Hashed(signature, is_good, seconds)
        if is_good:
            self._reported.discard(digest)

    def should_report(self, digest: Digest, signature: Signature, now: float) -> bool:
        """Return True once for each damaged file: it is BAD and has stayed unchanged."""
        if digest in self._reported or now < self.due(digest, signature, now):
            return False
        self._reported.add(digest)
        return True

    def keep(self, digests: Collection[Digest]) -> None:
        """Forget all other blobs."""
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
    """Hashes files in threads and remembers the verdicts.

    Concurrent checks of a file share one hash.
    """

    verdicts: BlobVerdicts
    _running: dict[tuple[Digest, Signature], _Hashing] = field(default_factory=dict)

    async def check(self, digest: Digest, fd: int) -> int:
        """Return the size of the open file if its content has this digest, else raise
        ContentNotFound.
        """
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
        """Return the verdict on the file. A damaged file is logged once."""
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
                digest, signature, is_good=is_good, seconds=time.monotonic() - started
            )
            self.verdict(digest, signature)
        return is_good


def _matches(digest: Digest, signature: Signature, fd: int, stop: threading.Event) -> bool:
    """Return True if the whole file has this digest and did not change meanwhile. Closes `fd`."""
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
