"""Opening files at once if the kernel has them in memory, and as safely in a thread if not."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from spegel_py.errors import ContentNotFound
from spegel_py.store import file_access
from spegel_py.store.file_access import BLOCKING, CACHED_ONLY, NotCached, open_file
from tests.support.processes import descriptors


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """A file that was just written, below the root `tmp_path`."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "one").write_bytes(b"content")
    return tmp_path / "blobs" / "one"


def content(fd: int) -> bytes:
    try:
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


async def test_what_the_kernel_has_in_memory_needs_no_thread(
    tmp_path: Path, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waking a thread costs more than the open. Linux 5.12 can tell whether it is needed."""

    async def refuse(*_: object) -> None:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(asyncio, "to_thread", refuse)
    assert content(await open_file(tmp_path, "blobs", "one")) == b"content"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EAGAIN])
async def test_a_kernel_that_cannot_tell_has_a_thread_open_it(
    tmp_path: Path, blob: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The kernel is too old, or sandboxed, or would have to ask the disk."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_access, "openat2", refuse)
    assert content(await open_file(tmp_path, "blobs", "one")) == b"content"


async def test_neither_way_follows_a_link_or_opens_a_folder(tmp_path: Path, blob: Path) -> None:
    """A process that can write there must not make this node read other files."""
    (tmp_path / "link").symlink_to(blob)
    (tmp_path / "folder").symlink_to(blob.parent)
    os.mkfifo(tmp_path / "fifo")
    before = descriptors()
    for parts in (("link",), ("folder", "one"), ("blobs",), ("fifo",), ("absent",)):
        for _ in range(2):
            with pytest.raises(ContentNotFound):
                await open_file(tmp_path, *parts)
    assert descriptors() <= before


def test_names_and_short_files_are_read_at_once(tmp_path: Path, blob: Path) -> None:
    """Both ways give the same result for a file that was just written."""
    blob.write_text(" text\n")
    for way in (CACHED_ONLY, BLOCKING):
        assert way.read(tmp_path, "blobs", "one") == "text"
        assert way.names(tmp_path, "blobs") == ["one"]


def test_what_is_not_to_be_had_at_once_is_not_waited_for(tmp_path: Path, blob: Path) -> None:
    """The names of a folder that is long unchanged may come from the disk.

    So may the absence of a file.
    """
    os.utime(blob.parent, (1, 1))
    with pytest.raises(NotCached):
        CACHED_ONLY.names(tmp_path, "blobs")
    with pytest.raises(NotCached):
        CACHED_ONLY.read(tmp_path, "blobs", "absent")
    assert BLOCKING.names(tmp_path, "blobs") == ["one"]
    assert BLOCKING.read(tmp_path, "blobs", "absent") == ""
    assert BLOCKING.names(tmp_path, "absent") == []


def test_that_something_is_not_there_is_known_at_once_where_it_was_looked_for(
    tmp_path: Path, blob: Path
) -> None:
    """The kernel remembers names that it did not find, and names that were removed."""
    blob.unlink()
    assert BLOCKING.names(tmp_path, "absent") == []
    with pytest.raises(ContentNotFound):
        CACHED_ONLY.open(tmp_path, "blobs", "one")
    assert CACHED_ONLY.read(tmp_path, "blobs", "one") == ""
    assert CACHED_ONLY.names(tmp_path, "absent") == []
