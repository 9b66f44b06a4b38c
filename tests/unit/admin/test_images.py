"""Which images are listed, with what of them is here and who else has them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from spegel_py.admin.holder_cache import FRESH, HolderCache
from spegel_py.admin.images import ImageListing, LocalImages
from spegel_py.errors import RouterUnavailable
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore
from tests.support.images import image

ME, OTHER, THIRD = (
    Peer("me", "10.0.0.1", 5000),
    Peer("other", "10.0.0.2", 5000),
    Peer("third", "fd00::3", 5000),
)


class Router:
    """Finds what the network's members hold, and counts how often it is asked; some questions
    hang.
    """

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.asked: list[str] = []
        self.hangs: set[str] = set()
        self.is_down = False

    async def lookup(
        self, key: str, *, limit: int, max_age: float = math.inf
    ) -> AsyncIterator[Peer]:
        self.asked.append(key)
        if self.is_down:
            raise RouterUnavailable("it is down")
        if key in self.hangs:
            await asyncio.Event().wait()
        for peer, keys in self.network.members.items():
            if key in keys:
                yield peer


class Held:
    """A node that holds images."""

    def __init__(self) -> None:
        self.store, self.network = MemoryStore(), MemoryNetwork()
        self.router = Router(self.network)
        self.now = 0.0
        self.tags: dict[str, float] = {}
        self.images = LocalImages(
            store=self.store,
            holders=HolderCache(
                router=cast("Any", self.router), within=0.2, clock=lambda: self.now
            ),
            tags=lambda: self.tags,
            held=lambda: self.store.keys,
        )

    def hold(self, name: str, one: Image) -> Image:
        for blob in one.blobs:
            self.store.add(blob.data)
        self.store.tag(name, one.root.digest)
        self.tags[name] = 1000.0
        return one

    async def share(self, peer: Peer, digest: Digest) -> None:
        await self.network.join(peer).advertise([str(digest)])


@pytest.fixture
def node() -> Held:
    return Held()


def names(listing: ImageListing) -> list[str]:
    return [one.name for one in listing.images]


async def test_an_image_is_shown_with_all_that_it_is_made_of(node: Held) -> None:
    """Manifest, config and layers, and the peers that have its manifest too."""
    app = node.hold("r.io/app:1", image("app", layers=2))
    await node.share(OTHER, app.root.digest)
    await node.share(THIRD, app.root.digest)
    [one] = (await node.images.list()).images
    assert (one.digest, one.blobs, one.missing) == (app.root.digest, 4, 0)
    assert one.size == sum(len(blob.data) for blob in app.blobs)
    assert one.peers == (OTHER, THIRD)
    assert one.as_json() == {
        "name": "r.io/app:1",
        "digest": str(app.root.digest),
        "size": one.size,
        "blobs": 4,
        "missing": 0,
        "pulled": 1000.0,
        "peers": [
            {"id": "other", "address": "10.0.0.2:5000"},
            {"id": "third", "address": "[fd00::3]:5000"},
        ],
    }


async def test_layers_that_were_discarded_are_missing(node: Held) -> None:
    """As containerd does after unpacking, if it is told to."""
    app = node.hold("r.io/app:1", image("app", layers=2))
    node.store.remove(app.blobs[-1].digest)
    [one] = (await node.images.list()).images
    assert (one.blobs, one.missing) == (3, 1)
    assert one.size == sum(len(blob.data) for blob in app.blobs[:-1])


async def test_of_an_index_only_the_platforms_count_that_are_here(node: Held) -> None:
    """One of two was pulled: the other one's manifest and layers are neither here nor missing."""
    both = node.hold("r.io/app:1", image("app", layers=2, platforms=("amd64", "arm64")))
    other = json.loads(both.root.data)["manifests"][1]["digest"]
    for blob in image("app", layers=2, platforms=("arm64",)).blobs:
        node.store.remove(blob.digest)
    assert other not in node.store.keys
    [one] = (await node.images.list()).images
    assert (one.blobs, one.missing) == (5, 0)


async def test_images_are_listed_by_name_in_parts(node: Held) -> None:
    """With how many there are in all; a part of the name may be asked for."""
    for number in range(5):
        node.hold(f"r.io/app{number}:1", image(f"{number}", layers=1))
    node.hold("r.io/other:1", image("other", layers=1))
    listing = await node.images.list(part="app", offset=3, limit=2)
    assert names(listing) == ["r.io/app3:1", "r.io/app4:1"]
    assert (listing.total, listing.held, listing.offset) == (5, 6, 3)


async def test_work_is_done_for_what_is_shown_only(node: Held) -> None:
    """Peers are asked for of one image, not of a hundred."""
    for number in range(100):
        node.hold(f"r.io/app{number:02}:1", image(f"{number}", layers=1))
    await node.images.list(limit=1)
    assert len(node.router.asked) == 1


async def test_an_image_that_goes_meanwhile_is_left_out(node: Held) -> None:
    """Its tag is known still, its manifest gone."""
    app = node.hold("r.io/app:1", image("app"))
    node.hold("r.io/b:1", image("b"))
    node.store.remove(app.root.digest)
    assert names(await node.images.list()) == ["r.io/b:1"]


async def test_a_store_that_is_away_is_said(node: Held) -> None:
    """Instead of an empty list that looks like no image."""
    node.hold("r.io/app:1", image("app"))
    node.store.leave()
    listing = await node.images.list()
    assert (listing.images, listing.total, listing.error) == ((), 1, "the memory store is away")


async def test_peers_that_cannot_be_found_out_in_time_are_not_known(node: Held) -> None:
    """Of the others they are."""
    slow, quick = node.hold("r.io/a:1", image("a")), node.hold("r.io/b:1", image("b"))
    await node.share(OTHER, quick.root.digest)
    node.router.hangs.add(str(slow.root.digest))
    listing = await node.images.list()
    assert [one.peers for one in listing.images] == [None, (OTHER,)]


async def test_a_router_that_is_down_leaves_peers_unknown(node: Held) -> None:
    """And the images listed."""
    node.hold("r.io/a:1", image("a"))
    node.router.is_down = True
    assert [one.peers for one in (await node.images.list()).images] == [None]


async def test_who_has_an_image_is_asked_again_after_a_while(node: Held) -> None:
    """Not with each look: above the mesh limit it takes a hop."""
    app = node.hold("r.io/app:1", image("app"))
    await node.images.list()
    await node.share(OTHER, app.root.digest)
    node.now += FRESH - 1
    assert (await node.images.list()).images[0].peers == ()
    node.now += 2
    assert (await node.images.list()).images[0].peers == (OTHER,)
