"""The stores that the contract runs on, with ways to change their content from outside."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.store.base import Origins, Replicas, Store, Watcher
from spegel_py.store.containerd import Client, ContainerdStore, ContainerdWatcher
from spegel_py.store.layout import LayoutStore, LayoutWatcher
from spegel_py.store.memory_replicas import MemoryReplicas
from spegel_py.store.memory_store import MemoryStore, MemoryWatcher
from tests.support import images
from tests.support.containerd import Daemon


class Source(Protocol):
    """A store, its watcher, and the changes that a test makes from outside."""

    store: Store
    watcher: Watcher
    can_read_deleted: bool
    """Whether opened content outlives its deletion. containerd over gRPC gives no such promise."""

    origins: Origins
    """The origins of content, once a watcher with filters has found them."""

    filtered: Callable[[Filters], Watcher]
    """Returns another watcher of the same store, with these filters."""

    replicas: Replicas
    """The replicas that `watcher` announces."""

    is_collected: bool
    """Whether content that no image and no replica has is deleted."""

    can_unpack: bool
    """Whether replicas can be unpacked."""

    async def add(self, name: str, image: Image) -> None: ...
    async def forget(self, name: str) -> None:
        """Remove the tag, and all content that nothing else has, as the kubelet does."""

    def reopen(self) -> None:
        """Replace the store, its watcher and its replicas, as a new process would."""

    async def remove(self, name: str, image: Image) -> None:
        """Remove the tag and all content of the image."""

    async def untag(self, name: str) -> None:
        """Remove the tag alone."""

    async def leave(self) -> None:
        """Begin an outage of the store's backend."""

    async def come_back(self) -> None: ...
    async def close(self) -> None: ...


class NoOrigins:
    """Knows no origins."""

    async def sources(self, digest: Digest) -> frozenset[str]:
        return frozenset()


class MemorySource:
    """A MemoryStore."""

    can_read_deleted = True
    can_unpack = False

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.origins: Origins = NoOrigins()
        self.store: Store = self.memory
        self.watcher: Watcher = MemoryWatcher(store=self.memory)
        self.replicas: Replicas = MemoryReplicas(store=self.memory)
        self.is_collected = True
        self.filtered: Callable[[Filters], Watcher] = lambda filters: (
            self.watcher
        )  # it knows no images

    async def add(self, name: str, image: Image) -> None:
        for blob in image.blobs:
            self.memory.add(blob.data, algorithm=blob.digest.algorithm)
        self.memory.tag(name, image.root.digest)

    async def forget(self, name: str) -> None:
        self.memory.remove(name)
        self.memory.collect()

    def reopen(self) -> None:
        self.watcher = MemoryWatcher(store=self.memory)
        self.replicas = MemoryReplicas(store=self.memory)

    async def remove(self, name: str, image: Image) -> None:
        self.memory.remove(name)
        for blob in image.blobs:
            self.memory.remove(blob.digest)

    async def untag(self, name: str) -> None:
        self.memory.remove(name)

    async def leave(self) -> None:
        self.memory.leave()

    async def come_back(self) -> None:
        self.memory.come_back()

    async def close(self) -> None:
        pass


class LayoutSource:
    """A LayoutStore over a folder of its own."""

    can_unpack = False
    can_read_deleted = True

    def __init__(self, folder: Path) -> None:
        self.root, self.hidden = folder / "layout", folder / "hidden"
        self.writer = images.write_layout(self.root, {})
        self.is_collected = False
        self.reopen()

    def reopen(self) -> None:
        layout = LayoutStore(root=self.root)
        self.store: Store = layout
        self.origins: Origins = layout
        self.watcher: Watcher = LayoutWatcher(store=layout)
        self.replicas: Replicas = layout.replicas
        self.filtered: Callable[[Filters], Watcher] = lambda filters: LayoutWatcher(
            store=layout, filters=filters
        )

    async def add(self, name: str, image: Image) -> None:
        await asyncio.to_thread(images.add, self.writer, image, name)

    async def forget(self, name: str) -> None:
        self.writer.untag(name)

    async def remove(self, name: str, image: Image) -> None:
        self.writer.untag(name)
        for blob in image.blobs:
            self.writer.remove(blob.digest)

    async def untag(self, name: str) -> None:
        self.writer.untag(name)

    async def leave(self) -> None:
        self.root.rename(self.hidden)

    async def come_back(self) -> None:
        self.hidden.rename(self.root)

    async def close(self) -> None:
        pass


class ContainerdSource:
    """A real containerd with its own folder, changed through `ctr`."""

    def __init__(self, daemon: Daemon, *, is_mounted: bool) -> None:
        self.daemon = daemon
        self.can_read_deleted = is_mounted
        self.is_collected = True
        self.can_unpack = True
        self.client = Client(socket=daemon.socket)
        self.reopen()

    def reopen(self) -> None:
        store = ContainerdStore(
            client=self.client,
            content_path=self.daemon.content_path if self.can_read_deleted else None,
        )
        self.store: Store = store
        self.origins: Origins = store.origins
        self.watcher: Watcher = ContainerdWatcher(store=store)
        self.replicas: Replicas = store.replicas
        self.filtered: Callable[[Filters], Watcher] = lambda filters: ContainerdWatcher(
            store=store, filters=filters
        )

    @classmethod
    async def start(cls, *, is_mounted: bool) -> Self:
        """Start a daemon. Its folder's name is short because a socket's path must be."""
        daemon = Daemon(folder=Path(tempfile.mkdtemp(prefix="spegel-")), has_cri=False)
        await daemon.start()
        return cls(daemon, is_mounted=is_mounted)

    async def add(self, name: str, image: Image) -> None:
        await self.daemon.load({name: image})

    async def forget(self, name: str) -> None:
        await self.daemon.ctr("images", "rm", "--sync", name)

    async def remove(self, name: str, image: Image) -> None:
        await self.daemon.ctr(
            "images", "rm", "--sync", name
        )  # otherwise the collector runs at a time of its own

    async def untag(self, name: str) -> None:
        await self.daemon.ctr(
            "images", "rm", name
        )  # another image with the same content protects it

    async def leave(self) -> None:
        await self.daemon.kill()

    async def come_back(self) -> None:
        await self.daemon.start()

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)
        await self.daemon.stop()
        shutil.rmtree(self.daemon.folder)
