"""The contract of every Replicas, together with the watcher and the store that show them."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from spegel_py.errors import ContentNotFound, StoreUnavailable, UnpackUnsupported
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import replica_key
from spegel_py.store.base import Descriptor, PlatformImage, Replica, ReplicaReason
from spegel_py.store.walker import Walker
from tests.contract.sources import Source
from tests.contract.test_watcher import DEADLINE, listening
from tests.support.images import child, image

NAME = "registry.example/team/app:1"
OTHER = "registry.example/team/other:1"
PULLED = 1_700_000_000.25
WEEK = 7 * 86_400.0


@pytest.fixture
async def here(source: Source) -> Source:
    """A source whose replicas were loaded."""
    await source.replicas.load()
    return source


async def images_of(source: Source, one: Image) -> dict[Digest, PlatformImage]:
    """Return the complete images below a root, as the node finds them."""
    return await Walker(open=source.store.open).images(child(one), source.store.stat)


def replica_of(
    content: PlatformImage, *names: str, seconds: float = WEEK, at: float = PULLED
) -> Replica:
    return Replica(
        image=content,
        names=dict.fromkeys(names, at),
        reason=ReplicaReason.FLOOR,
        used=PULLED,
        expires=round(time.time() + seconds),
    )


async def hold(
    source: Source, one: Image, *names: str, seconds: float = WEEK, at: float = PULLED
) -> Replica:
    """Hold the only image below a root."""
    [content] = (await images_of(source, one)).values()
    replica = replica_of(content, *names, seconds=seconds, at=at)
    await source.replicas.hold(replica)
    return replica


async def loaded(source: Source) -> None:
    """Load the replicas as soon as the store answers."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await source.replicas.load()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def is_here(source: Source, digest: Digest) -> bool:
    try:
        await source.store.stat(digest)
    except ContentNotFound:
        return False
    return True


async def test_a_replica_outlives_the_runtimes_image(here: Source) -> None:
    """Its content and its tag are still announced and served after the runtime removed them."""
    one = image()
    await here.add(NAME, one)
    async with listening(here.watcher) as listener:
        await listener.until(lambda: NAME in listener.keys)
        replica = await hold(here, one, NAME)
        await listener.until(lambda: replica.key in listener.keys)
        await here.forget(NAME)
        # another image comes and goes, so the watcher has seen all changes before it
        await here.add(OTHER, image("other"))
        await listener.until(lambda: OTHER in listener.keys)
        await here.forget(OTHER)
        await listener.until(lambda: OTHER not in listener.keys)
        assert listener.keys >= {NAME, replica.key} | {str(blob.digest) for blob in one.blobs}
    assert (await here.store.resolve(NAME)).digest == one.root.digest
    for blob in one.blobs:
        assert await here.store.stat(blob.digest) == Descriptor(blob.digest, len(blob.data))


async def test_a_released_replica_is_withdrawn(here: Source) -> None:
    """Its key and tag go, and its content where the store collects."""
    one = image()
    await here.add(NAME, one)
    replica = await hold(here, one, NAME)
    await here.forget(NAME)
    async with listening(here.watcher) as listener:
        await listener.until(lambda: {NAME, replica.key} <= listener.keys)
        freed = await here.replicas.release(replica.image.manifest)
        await listener.until(lambda: not {NAME, replica.key} & listener.keys)
        if here.is_collected:
            await listener.until(lambda: not listener.keys)
    assert freed == (replica.image.size if here.is_collected else 0)
    assert not here.replicas.held()
    assert await is_here(here, one.root.digest) != here.is_collected
    with pytest.raises(ContentNotFound):
        await here.store.resolve(NAME)
    assert await here.replicas.release(replica.image.manifest) == 0


async def test_a_release_leaves_the_runtimes_image(here: Source) -> None:
    """Only the replica's key is withdrawn while the runtime still has the image."""
    one = image()
    await here.add(NAME, one)
    async with listening(here.watcher) as listener:
        replica = await hold(here, one, NAME)
        await listener.until(lambda: replica.key in listener.keys)
        assert await here.replicas.release(replica.image.manifest) == 0
        await listener.until(lambda: replica.key not in listener.keys)
        assert listener.keys == {NAME} | {str(blob.digest) for blob in one.blobs}


async def test_shared_content_stays_for_the_other_replica(here: Source) -> None:
    """Two images with one layer in common: releasing one frees only its own content."""
    one, many = image("a"), image("a", layers=3)
    shared = {blob.digest for blob in one.blobs} & {blob.digest for blob in many.blobs}
    assert shared
    await here.add(NAME, one)
    await here.add(OTHER, many)
    first, second = await hold(here, one, NAME), await hold(here, many, OTHER)
    await here.forget(NAME)
    await here.forget(OTHER)
    freed = await here.replicas.release(first.image.manifest)
    if here.is_collected:
        assert freed == sum(len(b.data) for b in one.blobs if b.digest not in shared)
    for blob in many.blobs:
        assert await is_here(here, blob.digest)
    assert set(here.replicas.held()) == {second.image.manifest}


async def test_replicas_are_there_after_a_restart(here: Source) -> None:
    """A new process finds each replica as it was held, and announces it."""
    one = image()
    await here.add(NAME, one)
    replica = await hold(here, one, NAME)
    await here.forget(NAME)
    here.reopen()
    async with listening(here.watcher) as listener:
        await listener.until(lambda: {NAME, replica.key} <= listener.keys)
        assert listener.pulled[NAME] == PULLED
    await here.replicas.load()
    assert here.replicas.held() == {replica.image.manifest: replica}
    assert (await here.store.resolve(NAME)).pulled == PULLED


async def test_one_platform_of_an_index_is_held_with_the_index(here: Source) -> None:
    """An image is one platform's manifest, and the index by which it was pulled belongs to it."""
    many = image("many", platforms=("amd64", "arm64"))
    await here.add(NAME, many)
    found = await images_of(here, many)
    assert len(found) == 2
    for manifest, content in found.items():
        digests = {blob.digest for blob in content.blobs}
        assert {manifest, many.root.digest} <= digests
        assert not digests & (found.keys() - {manifest})
    content = next(iter(found.values()))
    await here.replicas.hold(replica_of(content, NAME))
    await here.forget(NAME)
    assert (await here.store.resolve(NAME)).digest == many.root.digest
    others = {blob.digest for blob in many.blobs} - {blob.digest for blob in content.blobs}
    assert [await is_here(here, digest) for digest in others] == [not here.is_collected] * len(
        others
    )


async def test_an_image_that_is_not_complete_is_not_held(here: Source) -> None:
    """A missing blob, or one of another size, raises ContentNotFound and leaves nothing behind."""
    one = image()
    await here.add(NAME, one)
    [content] = (await images_of(here, one)).values()
    absent = Descriptor(Digest.of(b"never stored"), 12)
    longer = Descriptor(one.root.digest, len(one.root.data) + 1)
    others = content.blobs - {Descriptor(one.root.digest, len(one.root.data))}
    for blobs in (content.blobs | {absent}, others | {longer}):
        wrong = PlatformImage(manifest=content.manifest, root=content.root, blobs=blobs)
        with pytest.raises(ContentNotFound):
            await here.replicas.hold(replica_of(wrong))
    assert not here.replicas.held()
    here.reopen()
    await here.replicas.load()
    assert not here.replicas.held()
    await here.forget(NAME)
    assert await is_here(here, one.root.digest) != here.is_collected


async def test_holding_again_replaces_the_replica(here: Source) -> None:
    """The new tags, purpose and expiry count, before and after a restart."""
    one = image()
    await here.add(NAME, one)
    await hold(here, one, NAME, seconds=60.0)
    latest = await hold(here, one, OTHER, at=PULLED + 1)
    assert here.replicas.held() == {latest.image.manifest: latest}
    await here.forget(NAME)
    with pytest.raises(ContentNotFound):
        await here.store.resolve(NAME)
    assert (await here.store.resolve(OTHER)).digest == one.root.digest
    here.reopen()
    await here.replicas.load()
    assert here.replicas.held() == {latest.image.manifest: latest}


async def test_a_replica_without_tags_is_announced_by_its_key(here: Source) -> None:
    """Its content can be pulled by digest."""
    one = image()
    await here.add(NAME, one)
    replica = await hold(here, one)
    await here.forget(NAME)
    async with listening(here.watcher) as listener:
        await listener.until(lambda: replica.key in listener.keys)
        assert NAME not in listener.keys
        assert listener.keys == {replica_key(replica.image.manifest)} | {
            str(blob.digest) for blob in one.blobs
        }


async def test_an_expired_replica_is_not_there_after_a_restart(here: Source) -> None:
    """A node that was off for longer than its replicas' time starts without them."""
    one = image()
    await here.add(NAME, one)
    replica = await hold(here, one, NAME, seconds=2.0)
    await asyncio.sleep(replica.expires - time.time() + 0.1)
    here.reopen()
    await here.replicas.load()
    assert not here.replicas.held()


async def test_the_runtimes_images_are_listed_without_replicas(here: Source) -> None:
    """An image that only a replica keeps is none of the runtime's."""
    one, two = image(), image("two")
    await here.add(NAME, one)
    await here.add(OTHER, two)
    await hold(here, one, NAME)
    assert {each.name: each.root.digest for each in await here.replicas.pulled()} == {
        NAME: one.root.digest,
        OTHER: two.root.digest,
    }
    await here.forget(NAME)
    [left] = await here.replicas.pulled()
    assert (left.name, left.root.digest) == (OTHER, two.root.digest)


async def test_an_outage_changes_nothing(here: Source) -> None:
    """While the store is away `hold` and `release` raise StoreUnavailable, and nothing is lost."""
    one, two = image(), image("two")
    await here.add(NAME, one)
    await here.add(OTHER, two)
    replica = await hold(here, one, NAME)
    [content] = (await images_of(here, two)).values()
    await here.leave()
    with pytest.raises(StoreUnavailable):
        await here.replicas.hold(replica_of(content))
    with pytest.raises(StoreUnavailable):
        await here.replicas.release(replica.image.manifest)
    await here.come_back()
    here.reopen()
    await loaded(here)
    assert set(here.replicas.held()) == {replica.image.manifest}


async def test_a_cancelled_hold_leaves_no_unfinished_replica(here: Source) -> None:
    """Whatever the moment, the replica is whole or not there."""
    one = image(layers=6)
    await here.add(NAME, one)
    [content] = (await images_of(here, one)).values()
    for delay in (0.0, 0.001, 0.003, 0.01):
        task = asyncio.create_task(here.replicas.hold(replica_of(content)))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
        here.reopen()
        await here.replicas.load()
        for replica in here.replicas.held().values():
            assert replica.image == content


async def test_an_unpacked_replica_stays_unpacked_until_it_is_released(here: Source) -> None:
    """Also when it is held again, and after a restart. A store that cannot unpack says so."""
    one = image()
    await here.add(NAME, one)
    replica = await hold(here, one, NAME)
    manifest = replica.image.manifest
    if not here.can_unpack:
        with pytest.raises(UnpackUnsupported):
            await here.replicas.unpack(manifest)
        assert here.replicas.held() == {manifest: replica}
        return
    await here.replicas.unpack(manifest)
    unpacked = dataclasses.replace(replica, is_unpacked=True)
    assert here.replicas.held() == {manifest: unpacked}
    await here.replicas.unpack(manifest)
    later = dataclasses.replace(unpacked, expires=unpacked.expires + 60)
    await here.replicas.hold(later)
    here.reopen()
    await here.replicas.load()
    assert here.replicas.held() == {manifest: later}
    await here.replicas.hold(replica)
    assert here.replicas.held() == {manifest: replica}
    await here.forget(NAME)
    await here.replicas.release(manifest)
    assert not await is_here(here, one.root.digest)


async def test_only_a_held_image_is_unpacked(here: Source) -> None:
    """Nothing would keep another one."""
    one = image()
    await here.add(NAME, one)
    with pytest.raises((ContentNotFound, UnpackUnsupported)):
        await here.replicas.unpack(one.root.digest)
    assert not here.replicas.held()


async def test_a_replica_is_not_unpacked_because_it_says_so(here: Source) -> None:
    """Only `unpack` makes it so."""
    one = image()
    await here.add(NAME, one)
    replica = await hold(here, one, NAME)
    await here.replicas.hold(dataclasses.replace(replica, is_unpacked=True))
    here.reopen()
    await here.replicas.load()
    assert here.replicas.held() == {replica.image.manifest: replica}


async def test_a_name_by_digest_is_remembered_and_is_no_tag(here: Source) -> None:
    """By it other nodes can be asked for an image without a tag."""
    one = image()
    await here.add(NAME, one)
    name = f"{NAME.rpartition(':')[0]}@{one.root.digest}"
    replica = await hold(here, one, name)
    await here.forget(NAME)
    here.reopen()
    await here.replicas.load()
    assert here.replicas.held() == {replica.image.manifest: replica}
    async with listening(here.watcher) as listener:
        await listener.until(lambda: replica.key in listener.keys)
        assert name not in listener.keys
