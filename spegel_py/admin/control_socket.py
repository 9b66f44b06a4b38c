"""The control socket: HTTP for the programs of this machine that change what the node holds.

It is a Unix socket that only its owner and root can open. The kernel tells the user of each client,
so that the audit can name it.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from spegel_py.errors import ConfigError

MAX_PATH = 107
"""Bytes of the longest path of a Unix socket (unix(7))."""

MAX_BODY = 256 * 1024
"""Bytes of the longest request."""

DRAIN = 2.0
"""Seconds that open requests get at the end."""

_UCRED = struct.Struct("3i")


@asynccontextmanager
async def serve_control(app: web.Application, path: Path) -> AsyncIterator[None]:
    """Serve an application on the socket at `path` while the block lasts.

    A socket that an earlier process left is replaced. Raises ConfigError.
    """
    try:
        listener, inode = _listen(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"--control-socket: cannot listen on {path}: {reason}") from error
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
        listener.close()
        _remove(path, inode)


def _remove(path: Path, inode: int) -> None:
    """Remove the socket, unless a later process has put its own there."""
    with suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def peer_uid(request: web.Request) -> int:
    """Return the user id of the process that sent a request over a Unix socket."""
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport else None
    if connection is None:
        raise ConnectionResetError("the client has gone")
    _, uid, _ = _UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return int(uid)


def _listen(path: Path) -> tuple[socket.socket, int]:
    """Return a listening socket and its inode.

    The socket gets its mode under another name, so that no other user can open it at any moment.
    """
    temporary = path.with_name(f".{secrets.token_hex(3)}.sock")
    longest = max(len(os.fsencode(path)), len(os.fsencode(temporary)))
    if longest > MAX_PATH:
        raise ConfigError(
            f"--control-socket: {path} is too long: a socket's path has {MAX_PATH} bytes at most"
        )
    if path.exists() and not path.is_socket():
        raise ConfigError(f"--control-socket: {path} exists, and is no socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(os.fspath(temporary))
        temporary.chmod(0o600)
        listener.listen(64)
        temporary.rename(path)
        return listener, path.stat().st_ino
    except BaseException:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
