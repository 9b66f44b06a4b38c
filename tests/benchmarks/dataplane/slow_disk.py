"""A disk that is slow for some processes, through the kernel's block I/O controller (cgroup v1 or
v2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/blkio"), Path("/sys/fs/cgroup")


def obstacle(path: Path) -> str:
    """Say why the disk that holds a path cannot be slowed down; nothing where it can."""
    try:
        disk(path)
        with limit([], path, 1 << 30):
            return ""
    except OSError as error:
        return f"no slow disk: {error}"


@contextmanager
def limit(pids: Sequence[int], path: Path, rate: int) -> Iterator[None]:
    """Let these processes read at most `rate` bytes a second from the disk that holds a path.
    Raises OSError.
    """
    root, file, entry = _V1, "blkio.throttle.read_bps_device", f"{disk(path)} {rate}"
    if not (_V1 / file).exists():
        root, file, entry = _V2, "io.max", f"{disk(path)} rbps={rate}"
        (_V2 / "cgroup.subtree_control").write_text("+io")
    group = root / f"bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / file).write_text(entry)
        _move(pids, group)
        yield
    finally:
        _move(pids, root)
        group.rmdir()


def disk(path: Path) -> str:
    """Return major:minor of the whole disk that holds a path. Raises OSError where it is on none
    (tmpfs, overlay).
    """
    number = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    return (
        (block.parent if (block / "partition").exists() else block)
        .joinpath("dev")
        .read_text()
        .strip()
    )


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(path: Path) -> None:
    """Bring a file into the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def _move(pids: Sequence[int], group: Path) -> None:
    for pid in pids:
        (group / "cgroup.procs").write_text(str(pid))
