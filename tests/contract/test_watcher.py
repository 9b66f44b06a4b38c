"""The contract of every Watcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from watchfiles.main import FileChange

from spegel_py.oci.build import Image
from spegel_py.store.base import Change, ContentEvent, Inventory, Watcher
from spegel_py.store.layout import layout_watcher
from tests.contract.sources import LayoutSource, Source
from tests.support.images import image

NAME = "registry.example/team/app:1"
OTHER = "registry.example/team/other:1"
DEADLINE = 10.0


class Listener:
    """Follows a watcher as the advertiser does, and keeps the resulting set of keys."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.pulled: dict[str, float] = {}
        self.events: list[Inventory | ContentEvent] = []
        self._news = asyncio.Event()

    async def listen(self, watcher: Watcher) -> None:
        async for event in watcher.watch():
            self.events.append(event)
            if isinstance(event, Inventory):
                self.keys, self.pulled = set(event.keys), dict(event.pulled)
            elif event.change is Change.REMOVED:
                self.keys.remove(event.key)
            else:
                assert (event.key in self.keys) == (event.change is Change.RENEWED), (
                    f"{event} out of turn"
                )
                self.keys.add(event.key)
                assert (event.pulled is not None) == ("/" in event.key), (
                    "tags have a time, digests none"
                )
                self.pulled |= {} if event.pulled is None else {event.key: event.pulled}
            self._news.set()

    @property
    def inventories(self) -> int:
        return sum(isinstance(event, Inventory) for event in self.events)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def listening(watcher: Watcher) -> AsyncIterator[Listener]:
    """Listen to the watcher in the background. Its failure fails the test."""
    listener = Listener()
    task = asyncio.create_task(listener.listen(watcher))
    try:
        yield listener
        assert not task.done(), f"the watcher ended: {task}"
    finally:
        task.cancel()
        await asyncio.wait([task])


def keys(name: str, one: Image) -> set[str]:
    return {name} | {str(blob.digest) for blob in one.blobs}


async def test_the_inventory_comes_first_and_is_complete(source: Source) -> None:
    """Tags, manifests, configs and layers that existed before are in the first event."""
    many = image("many", platforms=("amd64", "arm64"))
    await source.add(NAME, many)
    async with listening(source.watcher) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.events[0] == Inventory(frozenset(keys(NAME, many)))


async def test_an_empty_source_gives_an_empty_inventory(source: Source) -> None:
    """An empty inventory is an event too."""
    async with listening(source.watcher) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.events == [Inventory(frozenset())]


async def test_what_is_added_is_told(source: Source) -> None:
    """Every key of a new image comes as one ADDED."""
    async with listening(source.watcher) as listener:
        await listener.until(lambda: bool(listener.events))
        await source.add(NAME, image())
        await listener.until(lambda: listener.keys == keys(NAME, image()))
        assert listener.inventories == 1


async def test_what_is_removed_is_told(source: Source) -> None:
    """The tag and the content of a removed image come as REMOVED. Shared content stays."""
    one, other = image("one", layers=2), image("other", layers=1)
    await source.add(NAME, one)
    await source.add(OTHER, other)
    async with listening(source.watcher) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, one) | keys(OTHER, other))
        await source.remove(NAME, one)
        await listener.until(lambda: listener.keys == keys(OTHER, other))


async def test_a_tag_that_moves_stays_told(source: Source) -> None:
    """The name is still held, so only its new content is announced."""
    old, new = image("old"), image("new")
    await source.add(NAME, old)
    async with listening(source.watcher) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, old))
        await source.add(NAME, new)
        await listener.until(lambda: keys(NAME, new) <= listener.keys)
        assert ContentEvent(Change.REMOVED, NAME) not in listener.events


async def test_when_a_tag_was_pulled_is_told(source: Source) -> None:
    """The time comes with the inventory, with a new tag, and after a pull without a change."""
    before = time.time()
    await source.add(NAME, image("one"))
    async with listening(source.watcher) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, image("one")))
        first = listener.pulled[NAME]
        assert before - 1 < first < time.time() + 1
        await source.add(OTHER, image("other"))
        await listener.until(lambda: OTHER in listener.pulled)
        await source.add(NAME, image("one"))
        await listener.until(lambda: listener.pulled[NAME] > first)
        assert listener.pulled[NAME] == (await source.store.resolve(NAME)).pulled
        assert listener.inventories == 1


async def test_after_a_gap_everything_is_told_anew(source: Source) -> None:
    """After an outage the watcher sends another Inventory, and continues from there."""
    await source.add(NAME, image("one"))
    async with listening(source.watcher) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, image("one")))
        await source.leave()
        await asyncio.sleep(1.2)  # longer than any watcher needs to notice
        await source.come_back()
        await listener.until(lambda: listener.inventories >= 2)
        assert listener.keys == keys(NAME, image("one"))
        await source.add(OTHER, image("other"))
        await listener.until(lambda: keys(OTHER, image("other")) <= listener.keys)


async def test_a_source_that_is_away_at_first_is_waited_for(source: Source) -> None:
    """The watcher neither raises nor ends, and sends the inventory once the source is there."""
    await source.add(NAME, image())
    await source.leave()
    async with listening(source.watcher) as listener:
        await asyncio.sleep(0.2)
        assert listener.events == []
        await source.come_back()
        await listener.until(lambda: listener.keys == keys(NAME, image()))


async def test_what_comes_before_the_kernel_watches_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes between a layout's first listing and the start of its watch are found afterwards."""
    watching = asyncio.Event()

    async def late(_: Path) -> AsyncGenerator[set[FileChange], None]:
        await watching.wait()
        yield set()
        await asyncio.Event().wait()

    monkeypatch.setattr(layout_watcher, "_changes", late)
    source = LayoutSource(tmp_path)
    async with listening(source.watcher) as listener:
        await listener.until(lambda: listener.inventories == 1)
        await source.add(NAME, image())
        watching.set()
        await listener.until(lambda: listener.keys == keys(NAME, image()))


async def test_two_listeners_hear_the_same(source: Source) -> None:
    """Each call of `watch` starts with an inventory of its own."""
    async with listening(source.watcher) as first, listening(source.watcher) as second:
        await source.add(NAME, image())
        await first.until(lambda: first.keys == keys(NAME, image()))
        await second.until(lambda: second.keys == keys(NAME, image()))
