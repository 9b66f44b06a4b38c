"""Cheaper messages on py-libp2p's connections and streams: traps 13 to 15 of `compat`."""

from __future__ import annotations

from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn, INetStream
from libp2p.io.trio import TrioTCPStream

READ_AHEAD = 16 * 1024
"""Bytes read from a connection at once."""


class FastLock:
    """Does the same as `trio.Lock` and `trio.Semaphore(1)`, without a pause while it is free.

    In Trio every call that may wait lets all other tasks run first. That costs a look for events: a
    system call, before and after which the interpreter's lock changes hands. A message of 100 bytes
    passes a dozen locks, so this is most of its cost. Waiting tasks get the lock in their order,
    and may be cancelled.
    """

    __slots__ = ("_is_held", "_waiting")

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: trio.lowlevel.ParkingLot | None = None  # a peer has twenty locks

    def __repr__(self) -> str:
        waiting = len(self._waiting) if self._waiting is not None else 0
        return f"<FastLock {'held' if self._is_held else 'free'}, {waiting} waiting>"

    async def acquire(self) -> None:
        """Return once this task holds the lock."""
        if self._is_held:
            if self._waiting is None:
                self._waiting = trio.lowlevel.ParkingLot()
            await self._waiting.park()  # the lock is handed over, and stays held
        self._is_held = True

    def release(self) -> None:
        """Hand the lock to the task that waits longest, or set it free."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self._is_held = False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


class ReadAhead(TrioTCPStream):
    """A connection with one reading task, which reads all waiting bytes at once (trap 14)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        _use_fast_locks(self, "read_lock", "write_lock")
        self._ahead = memoryview(b"")

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, at least one unless the connection has ended."""
        if not self._ahead and n != 0:
            self._ahead = memoryview(await self._receive())
        data, self._ahead = self._ahead[:n], self._ahead[len(self._ahead) if n is None else n :]
        return bytes(data)

    async def _receive(self) -> bytes:
        """Return the bytes that have come, at least one unless the connection has ended."""
        return await super().read(READ_AHEAD)

    def put_back(self, data: bytes) -> None:
        """Put bytes back, which are read again first."""
        if data:
            self._ahead = memoryview(data + bytes(self._ahead))


def speed_up_connection(connection: IMuxedConn) -> None:
    """Prepare a connection that is not used yet."""
    _use_fast_locks(connection, "streams_lock", "_write_lock")


def speed_up_stream(stream: INetStream) -> None:
    """Prepare a stream that is not used yet."""
    muxed = cast("Any", stream).muxed_stream
    _use_fast_locks(stream, "_state_lock")
    _use_fast_locks(muxed, "window_lock", "close_lock")
    _use_fast_locks(muxed.rw_lock, "_readers_lock", "_writer_lock")
    _release_in_bulk(muxed)


def _use_fast_locks(owner: object, *locks: str) -> None:
    """Replace these locks of an object, which no task holds yet, by fast ones (trap 15)."""
    for name in locks:
        if not isinstance(getattr(owner, name), trio.Lock | trio.Semaphore):
            raise TypeError(f"{owner}.{name} is no lock")
        setattr(owner, name, FastLock())


def _release_in_bulk(muxed: Any) -> None:
    """Return the window of a stream to the sender only once half was read (trap 13)."""
    stock = muxed._auto_tune_and_send_window_update

    async def release(*, bytes_read: int = 0) -> None:
        buffered = len(muxed.conn.stream_buffers.get(muxed.stream_id, b""))
        if muxed.target_recv_window - muxed.recv_window - buffered >= muxed._grow_threshold():
            await stock(bytes_read=bytes_read)

    muxed._auto_tune_and_send_window_update = release
