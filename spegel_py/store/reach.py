"""Two ways to files below a root: anyhow, which may wait for a disk and belongs in a thread, and at once, which gives
up where it would have to wait. What was just written is in the kernel's memory, and a thread costs more than that."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.store.files import open_below, opened
from spegel_py.store.openat2 import BENEATH, CACHED, NO_SYMLINKS, openat2

T = TypeVar("T")

SHORT = 4096
"""Bytes that are read of a small file: containerd's have 100 at most."""

FRESH = 30.0
"""Seconds for which the names in a folder that changed are in memory for certain: nobody can ask the kernel."""


class Uncached(Exception):
    """It is not to be had at once: it is not in memory whether it is there, or the kernel cannot tell."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Opens a regular file below a root as `open_below` does; reads a small one as text, nothing of what is not there;
    lists the names in a folder."""

    open: Callable[..., int]
    read: Callable[..., str]
    names: Callable[..., list[str]]


def _read(root: Path, *parts: str) -> str:
    try:
        fd = open_below(root, *parts)
    except StoreError:
        return ""
    try:
        return _text(os.read(fd, SHORT))
    finally:
        os.close(fd)


def _names(root: Path, *parts: str) -> list[str]:
    try:
        return os.listdir(root.joinpath(*parts))  # noqa: PTH208 - names are what is wanted
    except OSError:
        return []


def _open_at_once(root: Path, *parts: str, flags: int = os.O_RDONLY | os.O_NONBLOCK) -> int:
    name = "/".join(parts)
    try:
        folder = openat2(root, os.O_PATH | os.O_DIRECTORY, CACHED)
    except OSError as error:
        raise Uncached from error
    try:
        fd = openat2(name, flags, CACHED | BENEATH | NO_SYMLINKS, folder=folder)
    except (
        FileNotFoundError
    ) as error:  # that is in memory too, where it was looked for or removed of late
        raise ContentNotFound(f"no file {name} in {root}") from error
    except OSError as error:
        raise Uncached from error
    finally:
        os.close(folder)
    is_right = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    if not is_right(os.fstat(fd).st_mode):
        os.close(fd)
        raise Uncached
    return fd


def _read_at_once(root: Path, *parts: str) -> str:
    try:
        fd, buffer = _open_at_once(root, *parts), bytearray(SHORT)
    except ContentNotFound:
        return ""
    try:
        return _text(bytes(buffer[: os.preadv(fd, [buffer], 0, os.RWF_NOWAIT)]))
    except OSError as error:
        raise Uncached from error
    finally:
        os.close(fd)


def _names_at_once(root: Path, *parts: str) -> list[str]:
    try:
        fd = _open_at_once(root, *parts, flags=os.O_RDONLY | os.O_DIRECTORY)
    except ContentNotFound:
        return []
    try:
        if not 0 <= time.time() - os.fstat(fd).st_mtime < FRESH:
            raise Uncached
        return os.listdir(fd)  # noqa: PTH208 - a descriptor
    finally:
        os.close(fd)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()


ANYHOW = Reach(open_below, _read, _names)
AT_ONCE = Reach(_open_at_once, _read_at_once, _names_at_once)


async def open_file(root: Path, *parts: str) -> int:
    """Do what `open_below` does, at once or in a thread; a descriptor that nobody waits for any more is closed."""
    return await reached(lambda reach: reach.open(root, *parts), os.close)


async def reached(make: Callable[[Reach], T], close: Callable[[T], None] = lambda _: None) -> T:
    """Return what `make` opens or finds, at once or in a thread; what nobody waits for any more is closed."""
    try:
        return make(AT_ONCE)
    except Uncached:
        return await opened(partial(make, ANYHOW), close)
