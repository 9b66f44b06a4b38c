"""Verification of relayed blobs, since wrong bytes fail a runtime's pull.

Small content is held in memory, within one budget for all pulls, and verified before its first byte
is sent. A blob too large for that is verified on its way, if the setting asks for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from random import Random

from spegel_py.errors import DigestMismatch
from spegel_py.oci.digest import Digest
from spegel_py.tools.bounded import BoundedDict
from spegel_py.transfer.base import Sink, SocketLease

MAX_BUFFERED = 4 * 1024 * 1024
"""Bytes of the largest blob that is verified before its first byte is sent, as all manifests are.

That takes about 3 ms and saves the pull, which wrong bytes end.
"""

MEMORY_LIMIT = 32 * 1024 * 1024
"""Bytes that all pulls together hold in memory, at most.

These are eight blobs of the largest size, or hundreds of usual manifests and configs. A runtime
fetches three layers at a time, and an idle node uses three times as much.
"""

HELD_BACK = 16 * 1024
"""Bytes of a blob's end that are held back until all of the blob was hashed.

Hundreds of clients may read slowly at the same time.
"""

SAMPLED_ONE_IN = 32
"""One in so many larger blobs is verified with `sample`.

Hashing a body costs four to five times the CPU of moving it in the kernel, so sampling costs a
tenth more on average.
"""

SUSPICIOUS_WITHIN = 600.0
"""Seconds within which a repeated request is suspicious: kubelet retries after 10 s to 5 min."""

MAX_REMEMBERED = 1024
"""Blobs whose relay is remembered: those of the last images."""


class Verify(Enum):
    """Which blobs too large for memory are verified; the value is the setting's."""

    OFF = "off"
    SAMPLE = "sample"
    ALL = "all"

    def selects(self, random: Random) -> bool:
        """Return True if one blob is to be verified."""
        return self is Verify.ALL or (
            self is Verify.SAMPLE and random.randrange(SAMPLED_ONE_IN) == 0
        )


class VerificationPolicy:
    """Decides which relayed blobs are verified on their way.

    With `sample` these include the blobs that were relayed completely a short time ago. A runtime
    asks again for a blob that it had to throw away, and a peer that damages blobs must not fail the
    second and third pull in the same way.
    """

    def __init__(self, *, verify: Verify, random: Random, clock: Callable[[], float]) -> None:
        self._verify = verify
        self._random = random
        self._clock = clock
        self._relayed: BoundedDict[Digest, float] = BoundedDict(limit=MAX_REMEMBERED)

    def __repr__(self) -> str:
        return f"<VerificationPolicy {self._verify.value}: {len(self._relayed)} blobs remembered>"

    def should_verify(self, digest: Digest) -> bool:
        """Return True if a blob that is relayed now is to be verified."""
        if self._verify is Verify.SAMPLE:
            age = self._clock() - self._relayed.get(digest, -math.inf)
            if age < SUSPICIOUS_WITHIN:
                return True
        return self._verify.selects(self._random)

    def record_relayed(self, digest: Digest) -> None:
        """Record that a blob was relayed completely."""
        self._relayed[digest] = self._clock()


class MemoryBudget:
    """The bytes that all pulls together may hold; each pull releases the bytes that it reserved."""

    def __init__(self, *, limit: int = MEMORY_LIMIT) -> None:
        self._limit = limit
        self._released = asyncio.Event()
        self.reserved = 0

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.reserved} of {self._limit} bytes>"

    def try_reserve(self, size: int) -> bool:
        """Reserve this number of bytes if they are free now; return True if they were."""
        if self.reserved + size > self._limit:
            return False
        self.reserved += size
        return True

    async def reserve(self, size: int) -> None:
        """Reserve this number of bytes, at most the limit, as soon as they are free."""
        while not self.try_reserve(size):
            self._released.clear()
            await self._released.wait()

    def release(self, size: int) -> None:
        """Release this number of bytes."""
        self.reserved -= size
        self._released.set()


class BufferSink(Sink):
    """Keeps content in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def __repr__(self) -> str:
        return f"<BufferSink of {len(self.data)} bytes>"

    @property
    def sent(self) -> int:
        return len(self.data)

    async def write(self, data: bytes) -> None:
        self.data += data


class VerifyingSink(Sink):
    """Hashes the whole content on its way to another sink; holds the end back until it is verified.

    `sent` includes the bytes that are held back: another peer would go on after these.
    `on_verified` is called with the result.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        digest: Digest,
        size: int,
        on_verified: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._sink = sink
        self._on_verified = on_verified
        self._digest = digest
        self._hasher = digest.hasher()
        self._size = size
        self._taken = 0
        self._lease: SocketLease | None = None
        self._held_back = bytearray()

    def __repr__(self) -> str:
        return f"<VerifyingSink of {self._digest}: {self.sent} of {self._size} bytes>"

    @property
    def sent(self) -> int:
        return self._taken + (self._lease.moved if self._lease is not None else 0)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[SocketLease | None]:
        """Lease the other sink's socket for all but the end; the moving thread hashes the bytes."""
        most = self._size - HELD_BACK - self._taken
        if most <= 0:
            yield None
            return
        async with self._sink.lease() as lease:
            if lease is None:
                yield None
                return
            lease.observer, lease.max_bytes, self._lease = self._hasher.update, most, lease
            try:
                yield lease
            finally:
                self._taken, self._lease = self.sent, None

    async def write(self, data: bytes) -> None:
        """Pass a piece on.

        Raises ClientGone, and with the last piece DigestMismatch if the content is wrong.
        """
        if not data:
            return
        self._hasher.update(data)
        free = max(0, self._size - HELD_BACK - self._taken)
        self._taken += len(data)
        self._held_back += data[free:]
        if free:
            await self._sink.write(data[:free])
        if self._taken == self._size:
            is_right = self._hasher.hexdigest() == self._digest.hex
            self._on_verified(is_right)
            if not is_right:
                raise DigestMismatch(f"the bytes are not those of {self._digest}")
            end, self._held_back = bytes(self._held_back), bytearray()
            await self._sink.write(end)
