"""Being told by the kernel that files change which this process has open: a thin layer over inotify(7).

watchfiles, which follows folders, gathers what happens for 50 ms at least and tells no end of a write; here a file is
followed that grows by the millisecond, and the end of its writer is what counts most.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MODIFY, _CLOSE_WRITE, _IGNORED, _OVERFLOW = 0x2, 0x8, 0x8000, 0x4000
_HEAD = struct.Struct("iIII")
_BUFFER = 64 * 1024

LINGER = 10.0
"""Seconds for which the descriptor is kept after the last watch: closing it takes the kernel 15 ms, and the next file
comes soon as a rule."""

OnChange = Callable[[bool], None]
"""Called when there may be more bytes; with True when a writer has closed the file."""

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Watches open files for the event loop; it has a descriptor of its own while there is one to watch, and a while
    longer."""

    def __init__(self) -> None:
        self._fd = -1
        self._listeners: dict[
            int, dict[object, OnChange]
        ] = {}  # by watch: the kernel has one for each file

    def __repr__(self) -> str:
        return f"<Inotify {len(self._listeners)} files>"

    @contextmanager
    def watching(self, fd: int, changed: OnChange) -> Iterator[None]:
        """Call `changed` while the block lasts. Raises OSError where the kernel has no watch left."""
        if self._fd < 0:
            self._open()
        try:
            watch = _check(
                _libc.inotify_add_watch(
                    self._fd, f"/proc/self/fd/{fd}".encode(), _MODIFY | _CLOSE_WRITE
                )
            )
        except OSError:
            self._rest_if_idle()
            raise
        token = object()
        self._listeners.setdefault(watch, {})[token] = changed
        try:
            yield
        finally:
            self._leave(watch, token)

    def _leave(self, watch: int, token: object) -> None:
        if (
            listeners := self._listeners.get(watch)
        ) is None:  # the file is gone from the disk, and its watch with it
            return
        listeners.pop(token, None)
        if not listeners:
            del self._listeners[watch]
            _libc.inotify_rm_watch(self._fd, watch)
            self._rest_if_idle()

    def _open(self) -> None:
        self._fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _rest_if_idle(self) -> None:
        if not self._listeners:
            asyncio.get_running_loop().call_later(LINGER, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._fd >= 0 and not self._listeners:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.run_in_executor(None, os.close, self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            events = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        at = 0
        while at < len(events):
            watch, mask, _, length = _HEAD.unpack_from(events, at)
            at += _HEAD.size + length
            self._tell(watch, mask)

    def _tell(self, watch: int, mask: int) -> None:
        if (
            mask & _OVERFLOW
        ):  # events were lost, so any file may have grown; an end shows when the file is looked at
            told = [
                changed for listeners in self._listeners.values() for changed in listeners.values()
            ]
        else:
            told = list(self._listeners.get(watch, {}).values())
        for changed in told:
            changed(bool(mask & (_CLOSE_WRITE | _IGNORED)))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
