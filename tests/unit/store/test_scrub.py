"""Large blobs in real files, hashed after they were sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import MAX_MANIFEST
from spegel_py.store.base import Change, Content, ContentEvent, Descriptor, Inventory
from spegel_py.store.file_access import FileContent, open_below
from spegel_py.store.memory_store import MemoryStore, MemoryWatcher
from spegel_py.store.scrub import ScrubbedStore, ScrubbedWatcher
from tests.support.processes import until

LARGE = bytes(MAX_MANIFEST + 1)
DIGEST = Digest.of(LARGE)


class Folder(MemoryStore):
    """A store whose blobs are files that a test can damage."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.opened = 0

    def put(self, data: bytes, contents: bytes | None = None) -> Digest:
        """Add a blob whose file has these contents, or the data itself."""
        digest = self.add(data)
        replacement = self.root / "new"
        replacement.write_bytes(data if contents is None else contents)
        replacement.rename(self.root / digest.hex)
        return digest

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        self._find(digest)
        self.opened += 1
        fd = open_below(self.root, digest.hex)
        try:
            yield FileContent(fd, (self.root / digest.hex).stat().st_size)
        finally:
            os.close(fd)


@dataclass
class Scrubbed:
    """A store that is being scrubbed, with its verdicts."""

    folder: Folder
    store: ScrubbedStore = field(init=False)
    verdicts: list[bool] = field(default_factory=list)
    wants: bool = True

    def __post_init__(self) -> None:
        self.store = ScrubbedStore(
            store=self.folder, should_hash=lambda: self.wants, on_verified=self.verdicts.append
        )

    async def send(self, digest: Digest) -> None:
        """Open content as a sender does."""
        async with self.store.open(digest):
            pass

    async def judged(self, count: int) -> None:
        async def are_there() -> bool:
            return len(self.verdicts) >= count

        await until(are_there)


@pytest.fixture
async def scrubbed(tmp_path: Path) -> AsyncIterator[Scrubbed]:
    made = Scrubbed(Folder(tmp_path))
    running = asyncio.create_task(made.store.run())
    yield made
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_blob_is_hashed_once(scrubbed: Scrubbed) -> None:
    """It is hashed after the first sending, and never again while its file is unchanged."""
    digest = scrubbed.folder.put(LARGE)
    for _ in range(3):
        await scrubbed.send(digest)
        await scrubbed.judged(1)
    assert scrubbed.verdicts == [True]
    assert scrubbed.folder.opened == 4
    scrubbed.folder.put(LARGE)
    await scrubbed.send(digest)
    await scrubbed.judged(2)


async def test_a_damaged_blob_is_sent_no_more(scrubbed: Scrubbed) -> None:
    """Every request for it fails, and the log names it."""
    digest = scrubbed.folder.put(LARGE, LARGE[:-1] + b"!")
    with capture_logs() as logs:
        await scrubbed.send(digest)
        await scrubbed.judged(1)
    assert scrubbed.verdicts == [False]
    assert [(entry["event"], entry["digest"]) for entry in logs] == [
        ("content damaged", str(digest))
    ]
    with pytest.raises(ContentNotFound):
        await scrubbed.store.stat(digest)
    with pytest.raises(ContentNotFound):
        await scrubbed.send(digest)


async def test_a_file_that_took_its_place_is_sent(scrubbed: Scrubbed) -> None:
    """A blob that was pulled again is trusted."""
    digest = scrubbed.folder.put(LARGE, LARGE[:-1] + b"!")
    await scrubbed.send(digest)
    await scrubbed.judged(1)
    assert await scrubbed.store.is_damaged(digest)
    scrubbed.folder.put(LARGE)
    assert not await scrubbed.store.is_damaged(digest)
    assert await scrubbed.store.stat(digest) == Descriptor(digest, len(LARGE))
    await scrubbed.send(digest)
    await scrubbed.judged(2)
    assert scrubbed.verdicts == [False, True]


async def test_what_is_small_or_not_wanted_is_not_hashed(scrubbed: Scrubbed) -> None:
    """Small content is verified elsewhere. A sample leaves other blobs out."""
    await scrubbed.send(scrubbed.folder.put(b"small"))
    scrubbed.wants = False
    digest = scrubbed.folder.put(LARGE)
    await scrubbed.send(digest)
    scrubbed.wants = True
    await scrubbed.send(digest)
    await scrubbed.judged(1)
    assert scrubbed.verdicts == [True]
    assert scrubbed.folder.opened == 4


async def test_a_blob_that_is_gone_by_then_is_passed_by(scrubbed: Scrubbed) -> None:
    """The next blob is hashed all the same."""
    gone, other = scrubbed.folder.put(LARGE), scrubbed.folder.put(LARGE + b"x")
    async with scrubbed.store.open(gone):
        scrubbed.folder.remove(gone)
    await scrubbed.send(other)
    await scrubbed.judged(1)
    assert scrubbed.verdicts == [True]


async def test_peers_are_told_that_a_damaged_blob_is_gone(scrubbed: Scrubbed) -> None:
    """It is removed when found, missing from every inventory, and added again with a new file."""
    digest = scrubbed.folder.put(LARGE, LARGE[:-1] + b"!")
    name = "r.io/app:1"
    scrubbed.folder.tag(name, digest)
    watching = ScrubbedWatcher(
        watcher=MemoryWatcher(store=scrubbed.folder), store=scrubbed.store
    ).watch()
    assert await anext(watching) == Inventory(frozenset([str(digest), name]))
    await scrubbed.send(digest)
    assert await anext(watching) == ContentEvent(Change.REMOVED, str(digest))
    scrubbed.folder.leave()
    scrubbed.folder.come_back()
    assert await anext(watching) == Inventory(frozenset([name]))
    scrubbed.folder.remove(digest)
    assert await anext(watching) == ContentEvent(Change.REMOVED, str(digest))
    scrubbed.folder.put(LARGE)
    assert await anext(watching) == ContentEvent(Change.ADDED, str(digest))
    await watching.aclose()  # type: ignore[attr-defined]  # it is a generator
