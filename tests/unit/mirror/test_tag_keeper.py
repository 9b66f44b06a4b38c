"""The keeper of the book of tags: its file, and the tags whose pull has ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.tag_book import TagBook
from spegel_py.mirror.tag_keeper import FILE_NAME, TagKeeper
from spegel_py.mirror.tag_trust import TagAuthors
from spegel_py.store.memory_store import MemoryStore
from tests.unit.mirror.tag_words import NAME, OLD, Observer


def keeper(folder: Path | None, *, node: Observer, store: MemoryStore | None = None) -> TagKeeper:
    book = TagBook(
        own_id=node.id,
        sign=node.key.sign,
        authors=TagAuthors(own_id=node.id, connected=tuple),
        freshness=Freshness(ttl=3600),
    )
    return TagKeeper(book=book, store=store or MemoryStore(), folder=folder)


async def run(keeper: TagKeeper, seconds: float = 0.05) -> None:
    """Run it for a moment, as a node does."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await keeper.run()


async def test_a_tag_that_was_pulled_from_the_registry_is_observed_and_kept(tmp_path: Path) -> None:
    """No peer has to ask for it first, and a restart does not forget it."""
    node, store = Observer(), MemoryStore()
    first = keeper(tmp_path, node=node, store=store)
    digest = store.add(b"image")
    now = time.time()
    first.book.origins.record_miss(NAME, now - 5)
    store.tag(NAME, digest, pulled=now)
    assert first.book.record_arrival(NAME, now) == now
    await run(first)
    origin = first.book.origins.of(NAME, digest)
    assert origin is not None
    assert origin.author == node.id
    again = keeper(tmp_path, node=node)
    await again.load()
    assert again.book.origins.of(NAME, digest) == origin
    other = keeper(tmp_path, node=Observer())
    await other.load()
    assert other.book.origins.of(NAME, digest) is None, "it was the word of another key"
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_a_tag_that_is_gone_again_is_not_observed(tmp_path: Path) -> None:
    one = keeper(tmp_path, node=Observer())
    one.book.origins.record_miss(NAME, time.time() - 5)
    one.book.record_arrival(NAME, time.time())
    await run(one)
    assert one.book.origins.of(NAME, OLD) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tags": 5}', '{"tags": [5]}', "\udcff"])
async def test_a_file_that_cannot_be_read_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(text.encode(errors="surrogateescape"))
    await keeper(tmp_path, node=Observer()).load()


async def test_without_a_folder_nothing_is_kept() -> None:
    one = keeper(None, node=Observer())
    await one.load()
    await run(one)


async def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    one = keeper(tmp_path / "missing", node=Observer())
    one.book.record_relayed(NAME, OLD, None, peer="peer", age=None)
    await run(one)
