"""Writing images that are not here, on every store: resumed, verified, and kept or gone."""

from __future__ import annotations

import asyncio
import time

import pytest

from spegel_py.errors import ContentNotFound, DigestMismatch, StoreUnavailable
from spegel_py.oci.build import Blob, Image
from spegel_py.oci.manifest import Child, children
from spegel_py.store.base import (
    Descriptor,
    ImageWriter,
    PlatformImage,
    Replica,
    ReplicaReason,
)
from spegel_py.store.containerd import ContainerdIngests, ContainerdStore
from spegel_py.store.layout import LayoutIngests
from tests.contract.sources import ContainerdSource, LayoutSource, Source
from tests.contract.test_replicas import is_here, loaded
from tests.contract.test_watcher import listening
from tests.support.images import child, image

NAME = "registry.example/team/app:1"
MIB = 1024 * 1024


@pytest.fixture
async def here(source: Source) -> Source:
    """A source whose replicas were loaded."""
    await source.replicas.load()
    return source


def content_of(one: Image) -> PlatformImage:
    return PlatformImage(
        manifest=one.root.digest,
        root=child(one),
        blobs=frozenset(Descriptor(blob.digest, len(blob.data)) for blob in one.blobs),
    )


def below(one: Image) -> list[tuple[Blob, Child]]:
    """Return the config and the layers."""
    data = {blob.digest: blob for blob in one.blobs}
    return [(data[each.digest], each) for each in children(one.root.data)]


async def write(writer: ImageWriter, blob: Blob, described: Child) -> None:
    async with writer.open(described) as content:
        if not content.is_here:
            await content.write(blob.data[content.offset :])
        await content.commit()


async def write_all(writer: ImageWriter, one: Image) -> None:
    for blob, described in below(one):
        await write(writer, blob, described)
    async with writer.open(child(one), children=children(one.root.data)) as content:
        if not content.is_here:
            await content.write(one.root.data)
        await content.commit()


def replica_of(one: Image) -> Replica:
    return Replica(
        image=content_of(one),
        names={NAME: 12.0},
        reason=ReplicaReason.FLOOR,
        used=10.0,
        expires=round(time.time() + 3600),
    )


async def test_an_image_is_written_held_and_announced(here: Source) -> None:
    """It is served as if it had been pulled, and goes when it is released."""
    one = image(layers=3, size=2 * MIB + 17)
    async with listening(here.watcher) as listener:
        async with here.replicas.writing(
            content_of(one), sources=["registry.example/team/app"], is_shared=False
        ) as writer:
            await write_all(writer, one)
            await here.replicas.hold(replica_of(one))
        await listener.until(lambda: {NAME, replica_of(one).key} <= listener.keys)
    for blob in one.blobs:
        async with here.store.open(blob.digest) as content:
            read = b"".join([piece async for piece in content.read(0, content.size)])
        assert read == blob.data
    assert [each.name for each in await here.replicas.pulled()] == []
    await here.replicas.release(one.root.digest)
    assert await is_here(here, one.root.digest) != here.is_collected


async def test_a_broken_write_goes_on_at_its_byte(here: Source) -> None:
    """The bytes of an earlier call are there, those of an earlier process too."""
    one = image(layers=1, size=3 * MIB)
    blob, described = below(one)[-1]
    async with here.replicas.writing(content_of(one)) as writer:
        async with writer.open(described) as content:
            assert (content.offset, content.is_here) == (0, False)
            await content.write(blob.data[: MIB + 5])
            assert content.offset == MIB + 5
        async with writer.open(described) as content:
            reached = content.offset
            assert 0 < reached <= MIB + 5
            await content.write(blob.data[reached:])
            await content.commit()
        async with writer.open(described) as content:
            assert (content.offset, content.is_here) == (len(blob.data), True)


async def test_wrong_bytes_are_discarded(here: Source) -> None:
    """They fail the commit, and the next attempt begins at 0."""
    one = image(layers=1, size=MIB)
    blob, described = below(one)[-1]
    async with here.replicas.writing(content_of(one)) as writer:
        for wrong in (blob.data[:-1] + b"?", blob.data[:-1], b""):
            async with writer.open(described) as content:
                assert content.offset == 0
                await content.write(wrong)
                with pytest.raises(DigestMismatch):
                    await content.commit()
            assert not await is_here(here, blob.digest)
        await write(writer, blob, described)


async def test_a_write_can_be_restarted(here: Source) -> None:
    """All bytes before count no more."""
    one = image(layers=1, size=MIB)
    blob, described = below(one)[-1]
    async with here.replicas.writing(content_of(one)) as writer:
        async with writer.open(described) as content:
            await content.write(b"?" * 1000)
            await content.restart()
            assert content.offset == 0
            await content.write(blob.data)
            await content.commit()
        assert await here.store.stat(blob.digest) == Descriptor(blob.digest, len(blob.data))


async def test_an_image_that_is_not_held_goes(here: Source) -> None:
    """Its committed content and its unfinished parts are collected, where the store collects."""
    one = image(layers=2, size=MIB)
    (first, first_child), (second, second_child), *_ = below(one)
    async with here.replicas.writing(content_of(one)) as writer:
        await write(writer, first, first_child)
        async with writer.open(second_child) as content:
            await content.write(second.data[:1000])
    assert await is_here(here, first.digest) != here.is_collected
    async with here.replicas.writing(content_of(one)) as writer, writer.open(second_child) as again:
        assert bool(again.offset) != here.is_collected


async def test_content_of_the_runtimes_images_is_used(here: Source) -> None:
    """It is not written again, and stays for the replica when the runtime removes its image."""
    one, more = image("a"), image("a", layers=3)
    await here.add(NAME, one)
    shared = {blob.digest for blob in one.blobs} & {blob.digest for blob in more.blobs}
    async with here.replicas.writing(content_of(more), sources=["registry.example/b"]) as writer:
        for blob, described in below(more):
            async with writer.open(described) as content:
                assert content.is_here == (blob.digest in shared)
                if not content.is_here:
                    await content.write(blob.data)
                await content.commit()
        await here.forget(NAME)
        async with writer.open(child(more), children=children(more.root.data)) as content:
            await content.write(more.root.data)
            await content.commit()
        await here.replicas.hold(replica_of(more))
    for blob in more.blobs:
        assert await is_here(here, blob.digest)


async def test_the_runtime_may_be_faster(here: Source) -> None:
    """A pull of the same blob that ends before the commit is no error."""
    one = image(layers=1, size=MIB)
    blob, described = below(one)[-1]
    async with here.replicas.writing(content_of(one), is_shared=False) as writer:
        async with writer.open(described) as content:
            await content.write(blob.data[:1000])
            await here.add(NAME, one)
            await content.write(blob.data[1000:])
            await content.commit()
        await here.replicas.hold(replica_of(one))
    await here.forget(NAME)
    for each in one.blobs:
        assert await is_here(here, each.digest)


async def test_an_outage_in_the_middle_is_survived(here: Source) -> None:
    """While the store is away writes fail; then the content goes on where it stopped."""
    one = image(layers=1, size=3 * MIB)
    blob, described = below(one)[-1]
    async with here.replicas.writing(content_of(one)) as writer:
        async with writer.open(described) as content:
            await content.write(blob.data[:MIB])
            async with writer.open(below(one)[0][1]) as other:
                await other.write(below(one)[0][0].data)
                await other.commit()
        await here.leave()
        with pytest.raises((StoreUnavailable, ContentNotFound)):
            await write(writer, blob, described)
        await here.come_back()
        await loaded(here)
        async with writer.open(described) as content:
            assert content.offset > 0
            await content.write(blob.data[content.offset :])
            await content.commit()
        await write_all(writer, one)
        await here.replicas.hold(replica_of(one))
    assert one.root.digest in here.replicas.held()


async def test_a_process_that_ends_leaves_bytes_for_the_next_one(here: Source) -> None:
    """The next process goes on with them, and `load` does not take them for a replica."""
    one = image(layers=1, size=2 * MIB)
    blob, described = below(one)[-1]
    context = here.replicas.writing(content_of(one))
    writer = await context.__aenter__()
    async with writer.open(described) as content:
        await content.write(blob.data[:MIB])
    here.reopen()  # without the end of the context, as after a crash
    await here.replicas.load()
    assert not here.replicas.held()
    async with here.replicas.writing(content_of(one)) as again, again.open(described) as content:
        assert content.offset == MIB


async def test_a_cancelled_write_leaves_nothing(here: Source) -> None:
    """Whatever the moment."""
    one = image(layers=2, size=2 * MIB)
    for delay in (0.0, 0.002, 0.01, 0.03):
        task = asyncio.create_task(_write_and_hold(here, one))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
        await here.replicas.release(one.root.digest)
        if here.is_collected:
            assert not [blob for blob in one.blobs if await is_here(here, blob.digest)]


async def _write_and_hold(source: Source, one: Image) -> None:
    async with source.replicas.writing(content_of(one)) as writer:
        await write_all(writer, one)
        await source.replicas.hold(replica_of(one))


async def test_background_content_is_not_found_as_an_ingest(here: Source) -> None:
    """A peer's pull, and a runtime's here, must not follow slow bytes."""
    if isinstance(here, ContainerdSource) and isinstance(here.store, ContainerdStore):
        if not here.can_read_deleted:
            pytest.skip("ingests cannot be seen over the socket")
        folder = here.store.folder
        ingests: ContainerdIngests | LayoutIngests = ContainerdIngests(
            folder=folder, namespaces=["k8s.io"]
        )
    elif isinstance(here, LayoutSource):
        ingests = LayoutIngests(root=here.root)
    else:
        pytest.skip("this store has no ingests")
    one = image(layers=1, size=2 * MIB)
    blob, described = below(one)[-1]
    for is_shared in (True, False):
        async with (
            here.replicas.writing(content_of(one), is_shared=is_shared) as writer,
            writer.open(described) as content,
        ):
            await content.write(blob.data[:MIB])
            if is_shared:
                async with ingests.open(blob.digest) as ingest:
                    assert ingest.total == len(blob.data)
            else:
                with pytest.raises(ContentNotFound):
                    async with ingests.open(blob.digest):
                        pass
            await content.restart()
