"""How many bytes all pulls together may hold in memory while they are verified."""

from __future__ import annotations

import asyncio

LIMIT = 32 * 1024 * 1024
"""Bytes held at most: eight blobs of the largest size that is held, or hundreds of usual manifests and configs. A
runtime fetches three layers at a time, and an idle node has three times as much."""


class Budget:
    """Bytes that may be held; each pull gives back the bytes that it took."""

    def __init__(self, *, limit: int = LIMIT) -> None:
        self._limit = limit
        self._freed = asyncio.Event()
        self.held = 0

    def __repr__(self) -> str:
        return f"<Budget {self.held} of {self._limit} bytes>"

    def try_take(self, size: int) -> bool:
        """Take this number of bytes if they are free now; return True if they were."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    async def take(self, size: int) -> None:
        """Take this number of bytes, at most the limit, as soon as they are free."""
        while not self.try_take(size):
            self._freed.clear()
            await self._freed.wait()

    def give_back(self, size: int) -> None:
        """Give this number of bytes back."""
        self.held -= size
        self._freed.set()
