"""Sends this node's own content to a client, without the event loop ever waiting for a disk.

aiohttp's FileResponse is not used: it blocks the loop on a slow disk, and under uvloop it reads in
small pieces.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from spegel_py.errors import StoreUnavailable
from spegel_py.store.base import Content, Ingest
from spegel_py.tools.threads import run_in
from spegel_py.transfer.base import Sink, SocketLease
from spegel_py.transfer.bucket import TokenBucket
from spegel_py.transfer.mover import Mover
from spegel_py.transfer.moves import Move
from spegel_py.transfer.sendfile import CannotSendfile, Sendfile

THREADS = 8
"""Threads that send content from disks, not from the page cache: a disk is busy with fewer."""

READERS = 4
"""Threads that only read: a manifest outside the page cache must not wait behind layers."""

PIECE = 512 * 1024
"""Bytes read at once: a thread hop costs about 30 µs, so hops stay below 0.1 CPU-s per GB."""

MAX_INLINE = 256 * 1024
"""Bytes of the largest content that the event loop reads itself from the page cache.

That is cheaper than a thread hop.
"""


MAX_IMMEDIATE = 1024 * 1024
"""Bytes that the event loop has the kernel send, if they are cached and the socket has room."""


class Sender:
    """Sends ranges of opened content; a context manager that waits for its threads at the end.

    Args:
        threads: threads that wait for disks.
        max_upload_rate: bytes per second to all peers together, 0 without a limit.
        is_copying: True to keep the kernel from sending files itself, for tests and measurements.
    """

    def __init__(
        self, *, threads: int = THREADS, max_upload_rate: int = 0, is_copying: bool = False
    ) -> None:
        self._mover = Mover(name="send", disk_threads=threads)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._bucket = TokenBucket(rate=max_upload_rate) if max_upload_rate else None
        self._is_copying = is_copying

    def __repr__(self) -> str:
        return f"<Sender {self._mover!r} {self._bucket!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mover.close()
        self._readers.shutdown()

    @property
    def load(self) -> int:
        """Number of bodies that the kernel is sending."""
        return self._mover.load

    async def send(
        self, content: Content, start: int, length: int, sink: Sink, *, to_peer: bool = False
    ) -> None:
        """Send `length` bytes from `start` on.

        Bytes to a peer count towards the upload rate, but small content does not wait for it.
        Raises StoreUnavailable if the source breaks; ClientGone.
        """
        bucket = self._bucket if to_peer else None
        if content.fd is None:
            async for piece in content.read(start, length):
                await sink.write(piece)
                await _pay(bucket, len(piece), length)
            return
        end = start + length
        if length > MAX_INLINE and not self._is_copying:
            async with sink.lease() as lease:
                if lease is not None:
                    start += await self._sendfile(content.fd, start, length, lease, bucket)
        await self._copy(content.fd, start, end, length, sink, bucket)

    async def send_growing(self, ingest: Ingest, start: int, length: int, sink: Sink) -> None:
        """Send a range of content that is still being written to a peer, each part at once.

        Raises StoreUnavailable if the writer stops before the end of the range; ClientGone.
        """
        at, end = start, start + length
        if length > MAX_INLINE and not self._is_copying:
            async with sink.lease() as lease:  # once for all parts: there may be hundreds
                while lease is not None and at < end:
                    there = await _there(ingest, at, end)
                    at += await self._sendfile(ingest.fd, at, there - at, lease, self._bucket)
                    if at < there:
                        break
        while at < end:
            there = await _there(ingest, at, end)
            await self._copy(ingest.fd, at, there, there - at, sink, self._bucket)
            at = there

    async def _copy(
        self, fd: int, start: int, end: int, length: int, sink: Sink, bucket: TokenBucket | None
    ) -> None:
        """Read and write what is left of a body of `length` bytes."""
        most = PIECE if bucket is None else min(PIECE, bucket.piece)
        while start < end:
            piece = await self._read(fd, min(most, end - start), start)
            await sink.write(piece)
            await _pay(bucket, len(piece), length)
            start += len(piece)

    async def _sendfile(
        self, fd: int, start: int, length: int, lease: SocketLease, bucket: TokenBucket | None
    ) -> int:
        """Let the kernel send, or with TLS the threads; return how many bytes they could."""
        if lease.observer is not None:  # the kernel shows the bytes to no observer
            return 0
        before = lease.moved
        while (sent := lease.moved - before) < length:
            most = length - sent if bucket is None else min(length - sent, bucket.piece)
            move = _file_move(fd, start + sent, lease, most)
            try:
                if not _is_sent_at_once(move):
                    await self._mover.run(move, check=move.check)
            except CannotSendfile:
                break
            await _pay(bucket, most, length)
        return lease.moved - before

    async def _read(self, fd: int, length: int, start: int) -> bytes:
        if length <= MAX_INLINE and (piece := _read_cached(fd, length, start)):
            return piece
        return await run_in(self._readers, _read, fd, length, start)


async def _there(ingest: Ingest, at: int, end: int) -> int:
    """Return the end of the available bytes, once it is beyond `at`.

    Raises StoreUnavailable if no more bytes come.
    """
    await ingest.wait_beyond(at)
    there = min(end, ingest.size)
    if there <= at:
        raise StoreUnavailable(f"its writer stopped at byte {at}")
    return there


def _file_move(fd: int, start: int, lease: SocketLease, length: int) -> Move:
    """Return the move of a file's bytes: by the kernel, or encrypted by a thread."""
    if lease.seal is None:
        return Sendfile(fd=fd, start=start, lease=lease, length=length)
    from spegel_py.transfer.sealed_file import SealedFile  # only nodes with TLS need it

    return SealedFile(fd=fd, start=start, lease=lease, length=length)


def _is_sent_at_once(move: Move) -> bool:
    """Make one step on the event loop if the move is small; return True if no bytes are left.

    This costs less than waking a thread, and in-flight content has a piece every few milliseconds.
    """
    if move.left <= MAX_IMMEDIATE:
        move.step()
    return not move.left


async def _pay(bucket: TokenBucket | None, count: int, length: int) -> None:
    """Pay for `count` bytes of a body of `length` bytes, and wait as the limit wants."""
    if bucket is not None:
        pause = bucket.pay(count, asyncio.get_running_loop().time())
        if length > MAX_INLINE:
            await asyncio.sleep(pause)


def _read_cached(fd: int, length: int, start: int) -> bytes:
    """Return the first of these bytes that are in the page cache; b"" if a disk must be read."""
    buffer = bytearray(length)
    try:
        count = os.preadv(fd, [buffer], start, os.RWF_NOWAIT)
    except OSError:  # not cached, or a file system that cannot tell
        return b""
    return bytes(buffer[:count])


def _read(fd: int, length: int, start: int) -> bytes:
    try:
        piece = os.pread(fd, length, start)
    except OSError as error:
        raise StoreUnavailable(f"reading content failed: {error.strerror}") from error
    if not piece:
        raise StoreUnavailable(f"content ended at byte {start}")
    return piece
