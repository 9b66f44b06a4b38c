"""Taking images into a store in memory, from a real HTTP server with faults."""

from __future__ import annotations

import asyncio
import time

import pytest

from spegel_py.oci.build import Image
from spegel_py.oci.reference import Reference
from spegel_py.pull.plan import Platform
from spegel_py.replicas import image_fetch
from spegel_py.replicas.take_budget import TakeBudget
from spegel_py.replicas.take_order import TakeFailed, TakeFault, TakeOrder, TakeProgress
from spegel_py.replicas.taker import ImageTaker
from spegel_py.store.base import ContentWriter, ReplicaReason
from spegel_py.store.memory_replicas import MemoryReplicas
from spegel_py.store.memory_store import MemoryStore
from spegel_py.store.memory_writer import MemoryContentWriter
from tests.support.image_server import ImageServer, image_server
from tests.support.images import image
from tests.support.processes import until

NAME = "registry.example/team/app:1"
AMD64 = Platform.of("linux", "amd64")
MIB = 1024 * 1024


class Taking:
    """A taker with its store."""

    def __init__(self, server: ImageServer, **settings: object) -> None:
        self.store = MemoryStore()
        self.replicas = MemoryReplicas(store=self.store)
        self.taker = ImageTaker(replicas=self.replicas, mirror=server.url, **settings)  # type: ignore[arg-type]

    def is_empty(self) -> bool:
        return not self.store.keys and not self.store.parts and not self.replicas.held()


def order_of(one: Image, **fields: object) -> TakeOrder:
    reference = Reference.parse(f"registry.example/team/app@{one.root.digest}")
    fields = {
        "reference": reference,
        "reason": ReplicaReason.FLOOR,
        "expires": time.time() + 3600,
        "platform": AMD64,
        **fields,
    }
    return TakeOrder(**fields)  # type: ignore[arg-type]


async def test_an_image_is_taken_and_held() -> None:
    """All its content comes, children before parents, and the replica has its names."""
    one = image(layers=3)
    async with image_server(one) as server:
        taking = Taking(server)
        report = await taking.taker.take(order_of(one, names={NAME: 12.0}))
        assert server.clients == {"replica"}
    assert report.received == report.replica.image.size == sum(len(b.data) for b in one.blobs)
    assert report.upstream == 0
    assert taking.replicas.held() == {one.root.digest: report.replica}
    assert (await taking.store.resolve(NAME)).digest == one.root.digest
    for blob in one.blobs:
        assert (await taking.store.stat(blob.digest)).size == len(blob.data)


async def test_one_platform_of_an_index_is_taken() -> None:
    """The platform chooses the manifest, or the order names it; the index belongs to the image."""
    many = image("many", platforms=("amd64", "arm64"))
    async with image_server(many) as server:
        taking = Taking(server)
        report = await taking.taker.take(order_of(many))
        assert report.replica.image.root.digest == many.root.digest
        other = await taking.taker.take(order_of(many, platform=Platform.of("linux", "arm64")))
        manifest = other.replica.image.manifest
        assert manifest != report.replica.image.manifest
        named = await Taking(server).taker.take(order_of(many, manifest=manifest))
        assert named.replica.image == other.replica.image
        with pytest.raises(TakeFailed) as raised:
            await taking.taker.take(order_of(many, platform=Platform.of("linux", "s390x")))
    assert raised.value.why is TakeFault.NO_PLATFORM


async def test_a_tag_is_resolved() -> None:
    """An order with a tag takes the image that the mirror names."""
    one = image()
    async with image_server() as server:
        server.add(one, "1")
        taking = Taking(server)
        report = await taking.taker.take(order_of(one, reference=Reference.parse(NAME)))
    assert report.replica.image.manifest == one.root.digest


async def test_a_broken_body_is_resumed_at_its_byte() -> None:
    """The bytes that came are kept, and the progress never runs backwards."""
    one = image(layers=1, size=3 * MIB)
    layer = max(one.blobs, key=lambda blob: len(blob.data))
    async with image_server(one) as server:
        server.cut[str(layer.digest)] = [MIB, 2 * MIB]
        taking = Taking(server)
        order = order_of(one)
        progress = TakeProgress(order)
        report = await taking.taker.take(order, progress=progress)
        assert server.got(layer.digest) == [0, MIB, 2 * MIB]
    assert report.received == progress.done == progress.total == report.replica.image.size


async def test_what_one_blob_has_is_not_fetched_again() -> None:
    """Content that is here already is used."""
    one, more = image("a"), image("a", layers=3)
    async with image_server(one, more) as server:
        taking = Taking(server)
        await taking.taker.take(order_of(one))
        report = await taking.taker.take(order_of(more))
        shared = {blob.digest for blob in one.blobs} & {blob.digest for blob in more.blobs}
        assert shared
        assert all(server.got(digest) == [0] for digest in shared)
    assert report.received < report.replica.image.size


@pytest.mark.parametrize("status", [404, 401, 500])
async def test_a_refused_blob_leaves_nothing(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told, and no content of the image stays."""
    one = image(layers=2)
    monkeypatch.setattr("spegel_py.pull.resume.PAUSE_FIRST", 0.001)
    async with image_server(one) as server:
        server.status[str(one.blobs[-1].digest)] = status
        taking = Taking(server)
        with pytest.raises(TakeFailed) as raised:
            await taking.taker.take(order_of(one))
    faults = {404: TakeFault.NOT_FOUND, 401: TakeFault.NO_CREDENTIALS, 500: TakeFault.UNREACHABLE}
    assert raised.value.why is faults[status]
    assert taking.is_empty()


async def test_wrong_bytes_are_not_kept() -> None:
    """A blob with another digest is fetched again, then given up."""
    one = image()
    layer = one.blobs[-1]
    async with image_server(one) as server:
        server.content[str(layer.digest)] = layer.data[:-1] + b"?"
        taking = Taking(server)
        with pytest.raises(TakeFailed) as raised:
            await taking.taker.take(order_of(one))
        assert server.got(layer.digest) == [0, 0]
    assert raised.value.why is TakeFault.WRONG_BYTES
    assert taking.is_empty()


async def test_an_image_without_room_is_refused_before_its_blobs() -> None:
    """The size is known from the manifests, so no blob is asked for."""
    one = image()

    async def room() -> int:
        return 100

    async with image_server(one) as server:
        for settings, fields, why in (
            ({"room": room}, {}, TakeFault.NO_ROOM),
            ({}, {"max_size": 100}, TakeFault.TOO_LARGE),
        ):
            taking = Taking(server, **settings)
            with pytest.raises(TakeFailed) as raised:
                await taking.taker.take(order_of(one, **fields))
            assert raised.value.why is why
            assert taking.is_empty()
        assert {digest for digest, _ in server.requests} == {str(one.root.digest)}


async def test_a_disk_that_fills_ends_the_take() -> None:
    """It is not retried, and what was written goes."""
    one = image(layers=1, size=2 * MIB)
    async with image_server(one) as server:
        taking = Taking(server)
        taking.store.room = MIB
        with pytest.raises(TakeFailed) as raised:
            await taking.taker.take(order_of(one))
    assert raised.value.why is TakeFault.NO_ROOM
    assert taking.is_empty()


async def test_a_store_that_comes_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """containerd restarts in the middle of a blob: the take resumes at the byte that is here."""
    one = image(layers=1, size=3 * MIB)
    layer = max(one.blobs, key=lambda blob: len(blob.data))
    write = MemoryContentWriter.write

    async def leave_once(self: ContentWriter, data: bytes) -> None:
        await write(self, data)  # type: ignore[arg-type]
        if self.offset >= MIB:
            monkeypatch.setattr(MemoryContentWriter, "write", write)
            taking.store.leave()
            asyncio.get_running_loop().call_later(0.3, taking.store.come_back)

    async with image_server(one) as server:
        taking = Taking(server)
        monkeypatch.setattr(MemoryContentWriter, "write", leave_once)
        report = await taking.taker.take(order_of(one))
        offsets = server.got(layer.digest)
    assert offsets[0] == 0
    assert all(offset >= MIB for offset in offsets[1:])
    assert report.replica.image.size == sum(len(blob.data) for blob in one.blobs)


async def test_a_store_that_stays_away_ends_the_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told after some time."""
    one = image()
    monkeypatch.setattr(image_fetch, "STORE_PATIENCE", 0.1)
    async with image_server(one) as server:
        taking = Taking(server)
        taking.store.leave()
        with pytest.raises(TakeFailed) as raised:
            await taking.taker.take(order_of(one))
    assert raised.value.why is TakeFault.STORE_AWAY


async def test_a_cancelled_take_leaves_nothing() -> None:
    """The part of the blob goes too."""
    one = image(layers=1, size=4 * MIB)
    async with image_server(one) as server:
        taking = Taking(server)
        task = asyncio.create_task(taking.taker.take(order_of(one, rate=MIB)))
        await until(lambda: _has_begun(taking.taker))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert taking.is_empty()
    assert not taking.taker.under_way


async def _has_begun(taker: ImageTaker) -> bool:
    return any(one.received > MIB for one in taker.under_way)


async def test_a_take_keeps_to_its_rate() -> None:
    """Two images of 1 MiB each at 4 MiB/s for the node: no sooner than the limit allows."""
    two = [image(seed, layers=1, size=MIB) for seed in ("a", "b")]
    async with image_server(*two) as server:
        taking = Taking(server, budget=TakeBudget(rate=4 * MIB))
        began = time.monotonic()
        await asyncio.gather(*(taking.taker.take(order_of(one)) for one in two))
    assert time.monotonic() - began > 0.4


async def test_room_is_promised_to_one_image_only() -> None:
    """Two takers with one budget: a second image is refused while the first one needs the room."""
    first, second = (image(seed, layers=1, size=8 * MIB) for seed in ("a", "b"))

    async def room() -> int:
        return 12 * MIB

    async with image_server(first, second) as server:
        budget = TakeBudget()
        one, other = (Taking(server, budget=budget, room=room) for _ in range(2))
        task = asyncio.create_task(one.taker.take(order_of(first, rate=MIB // 2)))
        await until(lambda: _has_begun_at_all(one.taker))
        with pytest.raises(TakeFailed) as raised:
            await other.taker.take(order_of(second))
        assert raised.value.why is TakeFault.NO_ROOM
        task.cancel()
        await asyncio.wait([task])
        await other.taker.take(order_of(second))


async def _has_begun_at_all(taker: ImageTaker) -> bool:
    return any(one.is_admitted for one in taker.under_way)


async def test_content_that_no_peer_gives_comes_from_the_registry() -> None:
    """Only an order with a registry asks it, and the bytes from there are counted."""
    one = image()
    layer = one.blobs[-1]
    async with image_server(one) as mirror, image_server(one) as registry:
        del mirror.content[str(layer.digest)]
        taking = Taking(mirror)
        report = await taking.taker.take(order_of(one, upstream=registry.url))
        assert registry.requests == [(str(layer.digest), 0)]
    assert report.upstream == len(layer.data)
