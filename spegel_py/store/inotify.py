"""Kernel events for files that this process has open: a thin layer over inotify(7).

watchfiles follows folders, collects events for at least 50 ms, and does not report the end of a
write. Here a single file grows by the millisecond, and the end of its writer matters most.
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
"""Seconds to keep the descriptor after the last watch.

Closing it takes the kernel 15 ms, and the next file usually comes soon.
"""

OnChange = Callable[[bool], None]
"""Called when the file may have grown; the argument is True when a writer closed it."""

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Watches open files for the event loop.

    It has one inotify descriptor, from the first watch until LINGER seconds after the last.
    """

    def __init__(self) -> None:
        self._fd = -1
        # by watch, because the kernel has one watch for each file
        self._listeners: dict[int, dict[object, OnChange]] = {}

    def __repr__(self) -> str:
        return f"<Inotify {len(self._listeners)} files>"

    @contextmanager
    def watching(self, fd: int, changed: OnChange) -> Iterator[None]:
        """Call `changed` on each event while the block lasts. Raises OSError if none is free."""
        if self._fd < 0:
            self._open()
        try:
            watch = _check(
                _libc.inotify_add_watch(
                    self._fd, f"/proc/self/fd/{fd}".encode(), _MODIFY | _CLOSE_WRITE
                )
            )
        except OSError:
            self._close_later_if_idle()
            raise
        token = object()
        self._listeners.setdefault(watch, {})[token] = changed
        try:
            yield
        finally:
            self._remove(watch, token)

    def _remove(self, watch: int, token: object) -> None:
        listeners = self._listeners.get(watch)
        if listeners is None:  # the kernel dropped the watch of a deleted file
            return
        listeners.pop(token, None)
        if not listeners:
            del self._listeners[watch]
            _libc.inotify_rm_watch(self._fd, watch)
            self._close_later_if_idle()

    def _open(self) -> None:
        self._fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _close_later_if_idle(self) -> None:
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
            self._notify(watch, mask)

    def _notify(self, watch: int, mask: int) -> None:
        # after an overflow any file may have grown; a missed end shows at the next check
        if mask & _OVERFLOW:
            called = [
                changed for listeners in self._listeners.values() for changed in listeners.values()
            ]
        else:
            called = list(self._listeners.get(watch, {}).values())
        for changed in called:
            changed(bool(mask & (_CLOSE_WRITE | _IGNORED)))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
