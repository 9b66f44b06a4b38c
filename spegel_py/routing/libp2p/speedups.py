"""Having a message cost less on py-libp2p's connections and streams: traps 13 to 15 of `compat`, which uses it."""

from __future__ import annotations

from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn, INetStream
from libp2p.io.trio import TrioTCPStream

from spegel_py.routing.libp2p.lock import FastLock

READ_AHEAD = 16 * 1024
"""Bytes that are read at once."""


class ReadAhead(TrioTCPStream):
    """A connection that is read by one task, which gets all that is there at once (trap 14)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        _be_brief(self, "read_lock", "write_lock")
        self._ahead = memoryview(b"")

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, some at least unless the connection has ended."""
        if not self._ahead and n != 0:
            self._ahead = memoryview(await super().read(READ_AHEAD))
        data, self._ahead = self._ahead[:n], self._ahead[len(self._ahead) if n is None else n :]
        return bytes(data)


def ease_connection(connection: IMuxedConn) -> None:
    """Prepare a connection that nobody uses yet."""
    _be_brief(connection, "streams_lock", "_write_lock")


def ease_stream(stream: INetStream) -> None:
    """Prepare a stream that nobody uses yet."""
    muxed = cast("Any", stream).muxed_stream
    _be_brief(stream, "_state_lock")
    _be_brief(muxed, "window_lock", "close_lock")
    _be_brief(muxed.rw_lock, "_readers_lock", "_writer_lock")
    _release_in_bulk(muxed)


def _be_brief(owner: object, *locks: str) -> None:
    """Have these locks of an object, which nobody holds yet, give no turn to others when they are free (trap 15)."""
    for name in locks:
        if not isinstance(getattr(owner, name), trio.Lock | trio.Semaphore):
            raise TypeError(f"{owner}.{name} is no lock")
        setattr(owner, name, FastLock())


def _release_in_bulk(muxed: Any) -> None:
    """Give the sender of a stream back what was read once that is half of its window (trap 13)."""
    stock = muxed._auto_tune_and_send_window_update

    async def release(*, bytes_read: int = 0) -> None:
        buffered = len(muxed.conn.stream_buffers.get(muxed.stream_id, b""))
        if muxed.target_recv_window - muxed.recv_window - buffered >= muxed._grow_threshold():
            await stock(bytes_read=bytes_read)

    muxed._auto_tune_and_send_window_update = release
