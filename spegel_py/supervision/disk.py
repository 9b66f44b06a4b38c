"""Whether the folders this node needs can be written: by their file systems' own figures, and by what a write said."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from spegel_py.supervision.conditions import DATA_DIR_READ_ONLY, DISK_FULL, Condition

LITTLE, LITTLE_SHARE = 64 * 1024 * 1024, 0.01
"""A file system is full when fewer bytes than this are free, and less than this share of it."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a folder."""

    condition: Condition
    folder: Path
    detail: str


def look(folder: Path, *, is_written: bool) -> Fault | None:
    """Return what is wrong with a folder's file system, None if nothing is or it is not there; it may block.

    Only one that this node itself writes may not be read-only: a container's view of containerd's content is.
    """
    try:
        figures = os.statvfs(folder)
    except OSError:
        return None
    if is_written and figures.f_flag & os.ST_RDONLY:
        return Fault(DATA_DIR_READ_ONLY, folder, "the file system is read-only")
    free, total = figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize
    if free < LITTLE and free < LITTLE_SHARE * total:
        return Fault(DISK_FULL, folder, f"{free} of {total} bytes are free")
    return None


def judge(error: OSError, folder: Path) -> Fault:
    """Return what a failed write says of a folder."""
    condition = DISK_FULL if error.errno in _FULL else DATA_DIR_READ_ONLY
    return Fault(condition, folder, error.strerror or str(error))
