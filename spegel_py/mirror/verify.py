"""Verifying blobs that are too large to be held, on their way: wrong bytes fail a runtime's pull."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from random import Random

from spegel_py.errors import DigestMismatch
from spegel_py.oci.digest import Digest
from spegel_py.tools.bounded import BoundedDict
from spegel_py.transfer.base import Loan, Sink

HELD = 16 * 1024
"""Bytes of the end of a blob that are held back until all of it was hashed: hundreds of clients may
read slowly at the same time."""

SAMPLE = 32
"""One larger blob in so many is verified with `sample`: a body that is hashed costs four to five times the CPU
of one that the kernel moves, so this is a tenth more on average."""

AGAIN = 600.0
"""Seconds within which a blob that is asked for again is suspicious: kubelet tries again after 10 s to 5 min."""

REMEMBERED = 1024
"""Blobs of which it is known when they were passed on: those of the last images."""


class Verify(Enum):
    """Which blobs too large to be held are verified; the value is the setting's."""

    OFF = "off"
    SAMPLE = "sample"
    ALL = "all"

    def wants(self, random: Random) -> bool:
        """Decide about one blob."""
        return self is Verify.ALL or (self is Verify.SAMPLE and random.randrange(SAMPLE) == 0)


class Verification:
    """Decides which relayed blobs are verified.

    With `sample` also those that were passed on in full a short while ago: a runtime asks for a blob again that it had
    to throw away, and a peer that damages blobs must not fail its second pull and its third in the same way.
    """

    def __init__(self, *, verify: Verify, random: Random, clock: Callable[[], float]) -> None:
        self._verify = verify
        self._random = random
        self._clock = clock
        self._passed_on: BoundedDict[Digest, float] = BoundedDict(limit=REMEMBERED)

    def __repr__(self) -> str:
        return f"<Verification {self._verify.value}: {len(self._passed_on)} blobs remembered>"

    def wants(self, digest: Digest) -> bool:
        """Decide about a blob that is to be passed on now."""
        if (
            self._verify is Verify.SAMPLE
            and self._clock() - self._passed_on.get(digest, -math.inf) < AGAIN
        ):
            return True
        return self._verify.wants(self._random)

    def passed_on(self, digest: Digest) -> None:
        """Note that a blob was passed on in full."""
        self._passed_on[digest] = self._clock()


class Buffer(Sink):
    """Keeps content that is small enough."""

    def __init__(self) -> None:
        self.data = bytearray()

    def __repr__(self) -> str:
        return f"<Buffer of {len(self.data)} bytes>"

    @property
    def sent(self) -> int:
        return len(self.data)

    async def write(self, data: bytes) -> None:
        self.data += data


class VerifyingSink(Sink):
    """Hashes the whole content on its way to another sink, and holds its end back until it is known to be right.

    `sent` counts what is held too: it is where another peer would go on. `verified` is told the verdict.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        digest: Digest,
        size: int,
        verified: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._sink = sink
        self._verified = verified
        self._digest = digest
        self._hasher = digest.hasher()
        self._size = size
        self._taken = 0
        self._loan: Loan | None = None
        self._held = bytearray()

    def __repr__(self) -> str:
        return f"<VerifyingSink of {self._digest}: {self.sent} of {self._size} bytes>"

    @property
    def sent(self) -> int:
        return self._taken + (self._loan.moved if self._loan is not None else 0)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Loan | None]:
        """Lend the other sink's socket for all but the end; who moves the bytes has them hashed."""
        most = self._size - HELD - self._taken
        if most <= 0:
            yield None
            return
        async with self._sink.lend() as loan:
            if loan is None:
                yield None
                return
            loan.tap, loan.most, self._loan = self._hasher.update, most, loan
            try:
                yield loan
            finally:
                self._taken, self._loan = self.sent, None

    async def write(self, data: bytes) -> None:
        """Pass a piece on. Raises DigestMismatch with the last one if the content is wrong, ClientGone."""
        if not data:
            return
        self._hasher.update(data)
        free = max(0, self._size - HELD - self._taken)
        self._taken += len(data)
        self._held += data[free:]
        if free:
            await self._sink.write(data[:free])
        if self._taken == self._size:
            is_right = self._hasher.hexdigest() == self._digest.hex
            self._verified(is_right)
            if not is_right:
                raise DigestMismatch(f"the bytes are not those of {self._digest}")
            end, self._held = bytes(self._held), bytearray()
            await self._sink.write(end)
