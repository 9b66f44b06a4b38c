"""Joined stores and watchers keep the contracts of every Store and Watcher, which run here on two
namespaces of one containerd and on two folders. Half of the images is in each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Change, ContentEvent, Inventory, Store, Watcher
from spegel_py.store.containerd import Client, ContainerdStore, ContainerdWatcher
from spegel_py.store.joined_store import JoinedOrigins, JoinedStore
from spegel_py.store.joined_watcher import JoinedWatcher
from spegel_py.store.memory_store import MemoryStore, MemoryWatcher
from tests.contract.sources import ContainerdSource, LayoutSource
from tests.contract.test_store import *  # noqa: F403 - the contract itself
from tests.contract.test_watcher import *  # noqa: F403
from tests.contract.test_watcher import NAME, OTHER, keys, listening
from tests.support.images import image


class JoinedLayouts:
    """Two layouts: the image OTHER and its like are in the second one."""

    can_read_deleted = True

    def __init__(self, folder: Path) -> None:
        self.parts = [LayoutSource(folder / "first"), LayoutSource(folder / "second")]
        self.store: Store = JoinedStore([each.store for each in self.parts])
        self.watcher: Watcher = JoinedWatcher([each.watcher for each in self.parts])

    def _part(self, name: str) -> LayoutSource:
        return self.parts["other" in name]

    async def add(self, name: str, image: Image) -> None:
        await self._part(name).add(name, image)

    async def remove(self, name: str, image: Image) -> None:
        await self._part(name).remove(name, image)

    async def untag(self, name: str) -> None:
        await self._part(name).untag(name)

    async def leave(self) -> None:
        await asyncio.gather(*(each.leave() for each in self.parts))

    async def come_back(self) -> None:
        await asyncio.gather(*(each.come_back() for each in self.parts))

    async def close(self) -> None:
        pass


class JoinedNamespaces(ContainerdSource):
    """Two namespaces of one containerd, which has each blob once on its disk."""

    def reopen(self) -> None:
        self.clients = [self.client, Client(socket=self.daemon.socket, namespace="moby")]
        stores = [
            ContainerdStore(client=each, content_path=self.daemon.content_path)
            for each in self.clients
        ]
        self.store: Store = JoinedStore(stores)
        self.origins = JoinedOrigins([each.origins for each in stores])
        self.watcher: Watcher = JoinedWatcher([ContainerdWatcher(store=each) for each in stores])

    async def add(self, name: str, image: Image) -> None:
        await self.daemon.load({name: image}, namespace=_namespace(name))

    async def remove(self, name: str, image: Image) -> None:
        await self.daemon.ctr("images", "rm", "--sync", name, namespace=_namespace(name))

    async def untag(self, name: str) -> None:
        await self.daemon.ctr("images", "rm", name, namespace=_namespace(name))

    async def close(self) -> None:
        await self.clients[1].__aexit__(None, None, None)
        await super().close()


def _namespace(name: str) -> str:
    return "moby" if "other" in name else "k8s.io"


Joined = JoinedLayouts | JoinedNamespaces


@pytest.fixture(params=["layouts", pytest.param("namespaces", marks=pytest.mark.root)])
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Joined]:
    made: Joined
    if request.param == "layouts":
        made = JoinedLayouts(tmp_path)
    else:
        made = await JoinedNamespaces.start(is_mounted=True)
    yield made
    await made.close()


def _two() -> tuple[list[MemoryStore], JoinedStore, JoinedWatcher]:
    stores = [MemoryStore(), MemoryStore()]
    return (
        stores,
        JoinedStore(stores),
        JoinedWatcher([MemoryWatcher(store=each) for each in stores]),
    )


def _fill(store: MemoryStore, name: str, one: Image) -> None:
    for blob in one.blobs:
        store.add(blob.data)
    store.tag(name, one.root.digest)


async def test_the_first_store_says_what_a_tag_means() -> None:
    """Until it has the tag no more."""
    (first, second), joined, _ = _two()
    _fill(first, NAME, image("first"))
    _fill(second, NAME, image("second"))
    assert (await joined.resolve(NAME)).digest == image("first").root.digest
    first.remove(NAME)
    assert (await joined.resolve(NAME)).digest == image("second").root.digest


async def test_what_one_store_lacks_another_may_have_while_it_is_away() -> None:
    (first, second), joined, _ = _two()
    _fill(second, NAME, image())
    first.leave()
    assert (await joined.stat(image().root.digest)).size == len(image().root.data)
    with pytest.raises(StoreUnavailable):
        await joined.stat(Digest.of(b"unknown"))
    first.come_back()
    with pytest.raises(ContentNotFound):
        await joined.stat(Digest.of(b"unknown"))


async def test_an_error_of_the_reader_is_not_taken_for_missing_content() -> None:
    """The second store is not tried in the middle of the first one's content."""
    stores, joined, _ = _two()
    for each in stores:
        _fill(each, NAME, image())
    with pytest.raises(ContentNotFound, match="the reader's own"):
        async with joined.open(image().root.digest):
            raise ContentNotFound("the reader's own")


async def test_what_both_have_is_told_once_and_withdrawn_with_the_last() -> None:
    (first, second), _, watcher = _two()
    _fill(first, NAME, image())
    _fill(second, OTHER, image())
    everything = keys(NAME, image()) | keys(OTHER, image())
    async with listening(watcher) as listener:
        await listener.until(lambda: listener.keys == everything)
        for blob in image().blobs:
            first.remove(blob.digest)
        first.remove(NAME)
        await listener.until(lambda: listener.keys == keys(OTHER, image()))
        assert listener.events[1:] == [ContentEvent(Change.REMOVED, NAME)]
        for blob in image().blobs:
            second.remove(blob.digest)
        second.remove(OTHER)
        await listener.until(lambda: listener.keys == set())


async def test_the_first_inventory_waits_for_all() -> None:
    """A part of the keys would let peers forget the rest."""
    (first, second), _, watcher = _two()
    _fill(first, NAME, image())
    second.leave()
    async with listening(watcher) as listener:
        await asyncio.sleep(0.2)
        assert listener.events == []
        second.come_back()
        await listener.until(lambda: bool(listener.events))
        assert listener.events[0] == Inventory(frozenset(keys(NAME, image())))
