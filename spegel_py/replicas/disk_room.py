"""The room for replicas on the file system of this node's content."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from spegel_py.errors import StoreUnavailable
from spegel_py.replicas.replica_rules import UNKNOWN_DISK, DiskUse, ReplicaRules, room


class DiskRoom:
    """Measures the file system below a folder.

    Args:
        content: a folder on it, which may be missing: containerd makes it with its first content.
            None if it cannot be measured.
    """

    def __init__(self, *, content: Path | None, rules: ReplicaRules) -> None:
        self._content = content
        self._rules = rules
        self.alone = 0
        """Bytes of replicas that no image of the runtime has too, as of the last scan."""
        self.share = 0.0
        """Share of the disk that was in use at the last measurement."""

    def __repr__(self) -> str:
        return f"<DiskRoom {self._content} alone={self.alone}>"

    async def use(self) -> DiskUse:
        """Return the present use. Raises StoreUnavailable."""
        found = replace(await asyncio.to_thread(self._measure), alone=self.alone)
        self.share = found.share
        return found

    async def left(self) -> int:
        """Return the bytes that replicas may add now. Raises StoreUnavailable."""
        return room(await self.use(), self._rules)

    def _measure(self) -> DiskUse:
        """Return the use, without `alone`. It blocks while the disk does."""
        if self._content is None:
            return UNKNOWN_DISK
        try:
            found = os.statvfs(_there(self._content))
        except OSError as error:
            raise StoreUnavailable(f"{self._content}: {error.strerror}") from error
        total = found.f_blocks * found.f_frsize
        return DiskUse(total=total, used=total - found.f_bavail * found.f_frsize)


def _there(folder: Path) -> Path:
    """Return the folder, or the one above it if it is missing."""
    return folder if folder.exists() else folder.parent
