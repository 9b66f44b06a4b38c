"""Gives memory that malloc keeps for later back to the system, once a burst is over.

Messages to hundreds of peers are built beside each other. Freed again, they leave their pages with
the process, since a few small objects lie between them: a third of the memory of a router with 200
peers (docs/internals/footprint.md).
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import time
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

INTERVAL = 30.0
"""Seconds between two looks at this process's memory."""

GROWN = 8 * 1024 * 1024
"""Bytes by which the memory has grown since it was last trimmed, before it is trimmed again."""

STILL = 1024 * 1024
"""Bytes by which the memory may grow between two looks while it counts as at rest."""


class MemoryTrimmer:
    """Trims the memory of this process when it has grown and is at rest.

    Args:
        read: returns the bytes of memory that are this process's own.
        trim: gives free memory back.
    """

    def __init__(
        self,
        *,
        read: Callable[[], int] | None = None,
        trim: Callable[[], None] | None = None,
    ) -> None:
        self._read = read or own_memory
        self._trim = trim or trim_memory
        self._trimmed = 0
        self._last = 0

    def __repr__(self) -> str:
        return f"<MemoryTrimmer trimmed to {self._trimmed} bytes>"

    async def run(self) -> None:
        """Trim until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Trim the memory, if it has grown and is at rest. Memory in use is not trimmed again."""
        before, self._last = self._last, self._read()
        if self._last - self._trimmed < GROWN or self._last - before > STILL:
            return
        began = time.perf_counter()
        # malloc holds its locks meanwhile, but the interpreter's is free.
        await asyncio.to_thread(self._trim)
        grown, self._trimmed = self._last, self._read()
        self._last = self._trimmed
        log.debug(
            "memory trimmed",
            returned=max(0, grown - self._trimmed),
            ms=round(1000 * (time.perf_counter() - began), 1),
        )


def own_memory() -> int:
    """Return the bytes of this process's memory that no file backs (/proc/self/statm)."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize()


def trim_memory() -> None:
    """Give free memory back to the system, where the C library can (glibc, not musl)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
