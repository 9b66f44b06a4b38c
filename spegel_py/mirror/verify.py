"""Verifying blobs that are too large to be held, on their way: wrong bytes fail a runtime's pull."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import Random

from spegel_py.errors import DigestMismatch
from spegel_py.oci.digest import Digest
from spegel_py.transfer.base import Sink

HELD = 1024 * 1024
"""Bytes of the end of a larger blob that are held back until all of it was hashed."""

SAMPLE = 16
"""One larger blob in so many is verified with `sample`: a peer that damages what it holds is found out within a
rollout, at a sixteenth of what hashing costs."""


class Verify(Enum):
    """Which blobs too large to be held are verified; the value is the setting's."""

    OFF = "off"
    SAMPLE = "sample"
    ALL = "all"

    def wants(self, random: Random) -> bool:
        """Decide about one blob."""
        return self is Verify.ALL or (self is Verify.SAMPLE and random.randrange(SAMPLE) == 0)


class VerifyingSink(Sink):
    """Hashes the whole content on its way to another sink, and holds its end back until it is known to be right.

    `sent` counts what is held too: it is where another peer would go on. `verified` is told the verdict.
    """

    def __init__(self, sink: Sink, *, digest: Digest, size: int, verified: Callable[[bool], None]) -> None:
        self._sink = sink
        self._verified = verified
        self._digest = digest
        self._hasher = digest.hasher()
        self._size = size
        self._taken = 0
        self._held = bytearray()

    def __repr__(self) -> str:
        return f"<VerifyingSink of {self._digest}: {self._taken} of {self._size} bytes>"

    @property
    def sent(self) -> int:
        return self._taken

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
            await self._sink.write(bytes(self._held))
