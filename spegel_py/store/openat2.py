"""Opening only what the kernel has in its memory: a thin layer over openat2(2) of Linux 5.12, which Python has not."""

from __future__ import annotations

import ctypes
import os
import struct

NO_SYMLINKS, BENEATH, CACHED = 0x04, 0x08, 0x20
"""How a path is resolved: through no symbolic link, not out of its folder, without waiting for a disk."""

WORKING_FOLDER = -100

_NUMBER = 437  # on every architecture
_HOW = struct.Struct("QQQ")

# the interpreter is not let go for it: nothing is waited for, and having it again may take 5 ms
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_syscall.restype = ctypes.c_long


def openat2(
    path: str | os.PathLike[str], flags: int, resolve: int, *, folder: int = WORKING_FOLDER
) -> int:
    """Return a descriptor of `path` below the open `folder`.

    Raises OSError: BlockingIOError where it is to be CACHED and is not; any other where the kernel has no such call.
    """
    how = _HOW.pack(flags | os.O_CLOEXEC, 0, resolve)
    fd = int(_syscall(_NUMBER, folder, os.fsencode(path), how, len(how)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))
    return fd
