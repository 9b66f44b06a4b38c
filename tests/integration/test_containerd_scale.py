"""A store with 500 images and 5,000 blobs: a start and an event cost only their share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from spegel_py.oci.digest import Digest
from spegel_py.store.containerd import Client, ContainerdStore, ContainerdWatcher
from spegel_py.store.containerd.blob_access import FileBlobs
from spegel_py.store.containerd.blob_records import BlobRecords
from spegel_py.store.containerd.grpc_client import BlobRecord, NamedImage
from tests.contract.test_watcher import keys, listening
from tests.integration.cluster import joined, metric
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(240),  # the import alone takes containerd 15 s
    pytest.mark.asyncio(loop_scope="module"),
]

IMAGES, LAYERS = 500, 8
BLOBS = IMAGES * (LAYERS + 2)
REPOSITORIES = 1

EVENTS = 12
"""Events of one image at most: three names, each created, updated once or twice, and deleted."""

LOOKS = 20
"""Queries for one blob at most: when it comes, when it goes, and at each check until it is gone."""

EXTRA = 3.0
"""Seconds that a start with a full store may take longer than with an empty one."""

MEMORY = Path("/dev/shm")
"""Folder for imports. containerd imports thousands of blobs here twice as fast as on a disk."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab() -> AsyncIterator[Lab]:
    """Two nodes without spegel-py. The second one's containerd is full."""
    async with start_lab(nodes=2, parent=MEMORY) as lab:
        many = {
            lab.name(f"test/many:{number}"): image(f"many/{number}", layers=LAYERS, size=200)
            for number in range(IMAGES)
        }
        await lab.nodes[1].daemon.load(many)
        yield lab


def spent(node: Node) -> float:
    """Return the CPU seconds of spegel-py. On an idle machine the elapsed time is no longer."""
    assert node.spegel
    times = psutil.Process(node.spegel.pid).cpu_times()
    return times.user + times.system


async def told(node: Node, count: int) -> None:
    """Wait until a node advertises `count` blobs."""

    async def is_so() -> bool:
        return await metric(node, "spegel_advertised_content_digests") == count

    await until(is_so, deadline=60)


async def test_a_full_node_starts_almost_as_fast_as_an_empty_one(lab: Lab) -> None:
    """It is live with all content announced after at most three more seconds of work than an empty
    node.
    """
    empty, full = lab.nodes
    await empty.start_spegel()
    alone = spent(empty)
    await full.start_spegel()
    await told(full, BLOBS)
    assert spent(full) < alone + EXTRA
    await joined(empty, full)

    async def has_all() -> bool:
        # each repository has a record besides, so that its tags can be listed
        return await metric(empty, "spegel_records_held") == BLOBS + IMAGES + REPOSITORIES

    await until(has_all, deadline=30)


class CountingClient(Client):
    """Counts the calls to containerd."""

    def __init__(self, *, socket: Path) -> None:
        super().__init__(socket=socket)
        self.calls: Counter[str] = Counter()

    async def images(self) -> list[NamedImage]:
        self.calls["list of images"] += 1
        return await super().images()

    async def content(self) -> dict[Digest, BlobRecord]:
        self.calls["list of content"] += 1
        return await super().content()

    async def image(self, name: str) -> NamedImage:
        self.calls["one image"] += 1
        return await super().image(name)

    async def info(self, digest: Digest) -> BlobRecord:
        self.calls["one blob"] += 1
        return await super().info(digest)


class CountingBlobs(FileBlobs):
    """Counts the listings of the content folder."""

    def __init__(self, *, content_path: Path, records: BlobRecords) -> None:
        super().__init__(content_path=content_path, records=records)
        self.listed = 0

    async def all(self) -> frozenset[Digest]:
        self.listed += 1
        return await super().all()


async def test_an_event_costs_what_its_image_costs(lab: Lab) -> None:
    """Five images that come and go among 500 are queried by name. There is no other listing."""
    daemon, cri = lab.nodes[1].daemon, lab.nodes[1].cri
    few = {lab.name(f"test/few:{number}"): image(f"few/{number}") for number in range(5)}
    for name, one in few.items():
        await lab.registry.push(name, one)
    async with CountingClient(socket=daemon.socket) as client:
        store = ContainerdStore(client=client, content_path=daemon.content_path)
        store.blobs = blobs = CountingBlobs(content_path=daemon.content_path, records=store.records)
        async with listening(ContainerdWatcher(store=store)) as listener:
            await listener.until(lambda: len(listener.keys) == BLOBS + IMAGES)
            await until(
                lambda: _is(client.calls["list of images"] == 2)
            )  # the second listing, a second after the start
            client.calls.clear()
            for name in few:
                await cri.pull(name)
            wanted = set().union(*(keys(name, one) for name, one in few.items()))
            await listener.until(lambda: wanted <= listener.keys)
            for name in few:
                await cri.remove(name)
            await listener.until(lambda: not wanted & listener.keys)
    assert client.calls.keys() == {"one image", "one blob"}
    assert client.calls["one image"] <= EVENTS * len(few)
    blobs_of_all = sum(len(one.blobs) for one in few.values())
    assert client.calls["one blob"] <= LOOKS * blobs_of_all
    assert blobs.listed == 1


async def _is(value: bool) -> bool:
    return value
