"""Files that are replaced as a whole and are on the disk afterwards; hashing; how many are open."""

from __future__ import annotations

import hashlib
import os
import resource
import secrets
import stat
from pathlib import Path

MAX_DESCRIPTORS = 1 << 20
"""Descriptors, enough for any node: container runtimes set hard limits of a billion."""


def replace_file(path: Path, data: bytes, *, mode: int = 0o644, is_durable: bool = True) -> None:
    """Write a file under a temporary name and rename it: readers see the old content or the new.

    Where it `is_durable`, both the file and its name in the folder survive a power cut afterwards.
    The umask applies to `mode`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    if is_durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in the folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_public(file: Path | int) -> bool:
    """Return True if every user of the machine can read a file, given its path or descriptor."""
    try:
        return bool(os.stat(file).st_mode & stat.S_IROTH)  # noqa: PTH116 - of a descriptor too
    except OSError:
        return False


def hash_file(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, and return the limit in force.

    Shells and container runtimes often start a process with a soft limit of 1,024. It protects
    programs that use select(2), which no part of a node does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # a sandbox may forbid it
            return soft
        return wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
