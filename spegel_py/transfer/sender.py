"""Sending this node's own content to a client, without the event loop ever waiting for a disk.

aiohttp's FileResponse is not used: it blocks the loop on a slow disk, and under uvloop reads in small pieces.
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
from spegel_py.transfer.base import Loan, Sink
from spegel_py.transfer.bucket import TokenBucket
from spegel_py.transfer.mover import Mover
from spegel_py.transfer.sendfile import Sendfile, Unable

THREADS = 8
"""Threads that send what is not in the page cache: they wait for disks, and a disk is busy with fewer."""

READERS = 4
"""Threads of their own for what is read: a manifest that is not in the page cache must not wait behind layers."""

PIECE = 512 * 1024
"""Bytes read at once: a thread hop costs ~30 µs, so this keeps it below 0.1 CPU-seconds per GB."""

INLINE = 256 * 1024
"""Up to this many bytes are read on the event loop if they are in the page cache: cheaper than a hop."""


AT_ONCE = 1024 * 1024
"""Up to this many bytes the event loop has the kernel send, as far as they are cached and the socket takes them."""


class Sender:
    """Sends ranges of opened content; owns its threads. A context manager that waits for them at its end.

    `max_upload_rate` is for how many bytes a second all that is sent to peers may take, 0 for any. `is_copying` keeps
    the kernel from sending files by itself, for tests and measurements.
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
        """How many bodies the kernel is sending."""
        return self._mover.load

    async def send(
        self, content: Content, start: int, length: int, sink: Sink, *, to_peer: bool = False
    ) -> None:
        """Send `length` bytes from `start` on. What goes to a peer counts against the rate; small content does not
        wait for it. Raises StoreUnavailable if the source breaks; ClientGone."""
        bucket = self._bucket if to_peer else None
        if content.fd is None:
            async for piece in content.read(start, length):
                await sink.write(piece)
                await _pay(bucket, len(piece), length)
            return
        end = start + length
        if length > INLINE and not self._is_copying:
            async with sink.lend() as loan:
                if loan is not None:
                    start += await self._sendfile(content.fd, start, length, loan, bucket)
        await self._copy(content.fd, start, end, length, sink, bucket)

    async def send_growing(self, ingest: Ingest, start: int, length: int, sink: Sink) -> None:
        """Send what a peer asked for of content that is being written, each part as soon as it is there. Raises
        StoreUnavailable if the writer stops short of it; ClientGone."""
        at, end = start, start + length
        if length > INLINE and not self._is_copying:
            async with sink.lend() as loan:  # once for all parts: there may be hundreds
                while loan is not None and at < end:
                    there = await _there(ingest, at, end)
                    at += await self._sendfile(ingest.fd, at, there - at, loan, self._bucket)
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
        self, fd: int, start: int, length: int, loan: Loan, bucket: TokenBucket | None
    ) -> int:
        """Have the kernel send; return how many bytes it could."""
        if loan.tap is not None:  # the kernel shows nobody what it sends
            return 0
        before = loan.moved
        while (sent := loan.moved - before) < length:
            most = length - sent if bucket is None else min(length - sent, bucket.piece)
            move = Sendfile(fd=fd, start=start + sent, loan=loan, length=most)
            try:
                if not _is_sent_at_once(move):
                    await self._mover.run(move, look=move.look)
            except Unable:
                break
            await _pay(bucket, most, length)
        return loan.moved - before

    async def _read(self, fd: int, length: int, start: int) -> bytes:
        if length <= INLINE and (piece := _read_cached(fd, length, start)):
            return piece
        return await run_in(self._readers, _read, fd, length, start)


async def _there(ingest: Ingest, at: int, end: int) -> int:
    """Return up to where there is something, once it is more than `at`. Raises StoreUnavailable where no more comes."""
    await ingest.wait_beyond(at)
    there = min(end, ingest.size)
    if there <= at:
        raise StoreUnavailable(f"who writes it stopped at byte {at}")
    return there


def _is_sent_at_once(move: Sendfile) -> bool:
    """Send here what one call sends, if it is in the page cache and the socket takes it; say whether that was all.

    It costs less than waking a thread, and content that is shared while it comes in has a piece every few milliseconds.
    """
    if move.left <= AT_ONCE:
        move.step()
    return not move.left


async def _pay(bucket: TokenBucket | None, count: int, length: int) -> None:
    """Note what was sent of a body of `length` bytes, and wait as the limit wants."""
    if bucket is not None:
        pause = bucket.pay(count, asyncio.get_running_loop().time())
        if length > INLINE:
            await asyncio.sleep(pause)


def _read_cached(fd: int, length: int, start: int) -> bytes:
    """Return the beginning of this that is in the page cache; nothing where a disk would have to be waited for."""
    buffer = bytearray(length)
    try:
        count = os.preadv(fd, [buffer], start, os.RWF_NOWAIT)
    except OSError:  # not there, or a file system that cannot tell
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
