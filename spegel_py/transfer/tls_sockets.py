"""Non-blocking sockets to peers, with TLS or without: one set of calls for both.

asyncio's own calls refuse sockets with TLS, and its streams would keep the descriptor, which the
threads that move bytes need.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def encrypted(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return the connection with TLS, after the handshake. Raises OSError; closes it then."""
    try:
        wrapped = context.wrap_socket(sock, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        await _retried(wrapped, wrapped.do_handshake)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all bytes. Raises OSError."""
    if not isinstance(sock, ssl.SSLSocket):
        await asyncio.get_running_loop().sock_sendall(sock, data)
        return
    left = memoryview(data)
    while left:
        left = left[await _retried(sock, partial(sock.send, left)) :]


async def receive(sock: socket.socket, size: int) -> bytes:
    """Return at most `size` bytes as soon as there are any, none at the end. Raises OSError."""
    if not isinstance(sock, ssl.SSLSocket):
        return await asyncio.get_running_loop().sock_recv(sock, size)
    return await _retried(sock, lambda: sock.recv(size))


def receive_now(sock: socket.socket, size: int) -> bytes:
    """Return the bytes that are there, none at the end. Raises BlockingIOError, and OSError."""
    if not isinstance(sock, ssl.SSLSocket):
        return sock.recv(size)
    buffer = bytearray(size)
    count = receive_into(sock, memoryview(buffer))
    del buffer[count:]
    return bytes(buffer)


def receive_into(sock: socket.socket, buffer: memoryview) -> int:
    """Receive the bytes that are there, and return their number; 0 at the end.

    A record of TLS has 16 KiB, and a call returns one: this takes as many as fit, so that as few
    pieces as without TLS go on. Raises BlockingIOError if none is there, and OSError.
    """
    if not isinstance(sock, ssl.SSLSocket):
        return os.readv(sock.fileno(), [buffer])
    count = 0
    while count < len(buffer):
        try:
            more = sock.recv_into(buffer[count:])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not count:
                raise BlockingIOError from None
            break
        if not more:
            break
        count += more
    return count


async def _retried(sock: ssl.SSLSocket, call: Callable[[], T]) -> T:
    """Return the result of a call once the socket is ready for it. Raises OSError."""
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            await _ready(sock, is_reading=True)
        except ssl.SSLWantWriteError:
            await _ready(sock, is_reading=False)


async def _ready(sock: ssl.SSLSocket, *, is_reading: bool) -> None:
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    add, remove = (
        (loop.add_reader, loop.remove_reader)
        if is_reading
        else (loop.add_writer, loop.remove_writer)
    )
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)
