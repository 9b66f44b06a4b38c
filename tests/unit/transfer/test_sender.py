"""Sending local content: it may wait for a disk, for its turn, or for the upload rate."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.store.file_access import FileContent
from spegel_py.store.memory_store import MemoryContent
from spegel_py.transfer.sender import MAX_IMMEDIATE, MAX_INLINE, Sender
from tests.contract.clients import MemorySink, SeenSink, SocketSink

LARGE = os.urandom(1 << 20) * 4
SMALL = os.urandom(1000)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[FileContent]:
    yield from opened(tmp_path / "large", LARGE)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FileContent]:
    yield from opened(tmp_path / "small", SMALL)


def opened(path: Path, data: bytes) -> Iterator[FileContent]:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    yield FileContent(fd, len(data))
    os.close(fd)


@asynccontextmanager
async def connected(limit: int | None = None) -> AsyncIterator[SocketSink]:
    sink = SocketSink.connect(limit)
    try:
        yield sink
    finally:
        await sink.close()


async def test_what_is_in_the_page_cache_is_read_at_once(
    small: FileContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that was just written needs no thread."""
    monkeypatch.setattr(os, "pread", None)
    sink = MemorySink()
    with Sender() as sender:
        await sender.send(small, 0, len(SMALL), sink)
    assert sink.taken == SMALL


@pytest.mark.parametrize(
    "reason", [errno.EAGAIN, errno.EOPNOTSUPP], ids=["not in the page cache", "cannot tell"]
)
async def test_what_is_not_is_read_in_a_thread(
    small: FileContent, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """The event loop goes on while a disk is slow, even for a small file."""
    ticks = 0

    def not_there(*_: Any) -> int:
        raise OSError(reason, "")

    def slow(fd: int, length: int, start: int) -> bytes:
        time.sleep(0.2)
        return pread(fd, length, start)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    pread = os.pread
    monkeypatch.setattr(os, "preadv", not_there)
    monkeypatch.setattr(os, "pread", slow)
    sink, ticking = MemorySink(), asyncio.ensure_future(tick())
    with Sender() as sender:
        await sender.send(small, 0, len(SMALL), sink)
    ticking.cancel()
    assert sink.taken == SMALL
    assert ticks > 5


async def test_a_client_that_has_to_see_the_bytes_is_written_to(large: FileContent) -> None:
    """An observer must see the bytes, so the kernel does not send them."""
    sink = SeenSink.connect()
    with Sender() as sender:
        await sender.send(large, 0, len(LARGE), sink)
    await sink.close()
    assert sink.seen == LARGE


async def test_small_content_does_not_wait_for_large(
    small: FileContent, large: FileContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While every thread waits for a hung disk, a manifest is sent, even if it must be read."""
    disk = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stuck(*_: int) -> int:
        asyncio.run_coroutine_threadsafe(disk.wait(), loop).result()
        raise OSError(errno.EIO, "at last")

    def not_there(*_: Any) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "sendfile", stuck)
    monkeypatch.setattr(os, "preadv", not_there)
    with Sender(threads=2) as sender:
        async with connected() as one, connected() as two, connected() as three:
            stuck_ones = [
                asyncio.ensure_future(sender.send(large, 0, len(LARGE), sink))
                for sink in (one, two, three)
            ]
            sink = MemorySink()
            async with asyncio.timeout(5):
                await sender.send(small, 0, len(SMALL), sink)
            assert sink.taken == SMALL
            disk.set()
            results = await asyncio.gather(*stuck_ones, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3


@pytest.mark.parametrize("size", [MAX_IMMEDIATE, MAX_IMMEDIATE + 1], ids=["one call", "more"])
async def test_what_one_call_sends_is_sent_without_a_thread(
    large: FileContent, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """That goes as far as the socket takes bytes.

    The rest, and any longer content, is sent by a thread, which may wait for the client.
    """
    threads: list[int] = []

    def noted(*given: int) -> int:
        threads.append(threading.get_ident())
        return sendfile(*given)

    sendfile = os.sendfile
    monkeypatch.setattr(os, "sendfile", noted)
    with Sender() as sender:
        async with connected() as sink:
            await sender.send(large, 0, size, sink)
    assert sink.taken == LARGE[:size]
    assert (threads[0] == threading.get_ident()) == (size <= MAX_IMMEDIATE)
    assert threading.get_ident() not in threads[1:]


async def test_a_file_that_the_kernel_cannot_send_is_copied(
    large: FileContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no sendfile: the bytes are the same."""

    def unable(*_: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", unable)
    with Sender() as sender:
        async with connected() as sink:
            await sender.send(large, 10, len(LARGE) - 10, sink)
    assert sink.taken == LARGE[10:]


async def test_a_cancelled_transfer_ends_after_its_thread(
    large: FileContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled twice while it waits for a disk, it goes on waiting.

    Its descriptors are closed next.
    """
    began, disk = threading.Event(), threading.Event()

    def stuck(*given: int) -> int:
        began.set()
        disk.wait()
        return sendfile(*given)

    sendfile = os.sendfile
    monkeypatch.setattr(os, "sendfile", stuck)
    with Sender() as sender:
        async with connected() as sink:
            sending = asyncio.ensure_future(sender.send(large, 0, len(LARGE), sink))
            await asyncio.to_thread(began.wait)
            for _ in range(2):
                sending.cancel()
                assert not (await asyncio.wait([sending], timeout=0.02))[0]
            disk.set()
            await asyncio.wait([sending])
            assert sending.cancelled()
            assert sink.sent < len(LARGE)


@pytest.mark.parametrize("kind", ["kernel", "copying", "memory"])
async def test_peers_share_the_upload_rate(large: FileContent, kind: str) -> None:
    """Two transfers to peers take as long as the rate says, whichever way they are sent."""
    content = MemoryContent(LARGE) if kind == "memory" else large
    with Sender(max_upload_rate=16 << 20, is_copying=kind == "copying") as sender:
        async with connected() as one, connected() as two:
            began = time.monotonic()
            await asyncio.gather(
                *[sender.send(content, 0, len(LARGE), sink, to_peer=True) for sink in (one, two)]
            )
            took = time.monotonic() - began
    assert took > 0.4  # 8 MiB at 16 MiB/s, less the first step
    assert one.taken == two.taken == LARGE


async def test_own_clients_and_small_content_do_not_wait_for_the_rate(
    large: FileContent, small: FileContent
) -> None:
    """The rate is for peers, and it never delays a manifest."""
    with Sender(max_upload_rate=1) as sender:
        async with connected() as sink, asyncio.timeout(10):
            await sender.send(large, 0, len(LARGE), sink)
            for _ in range(10):
                await sender.send(small, 0, len(SMALL), sink, to_peer=True)
    assert sink.taken == LARGE + SMALL * 10
    assert len(SMALL) <= MAX_INLINE < len(LARGE)
