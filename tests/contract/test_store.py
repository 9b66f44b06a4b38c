"""The contract of every Store."""

from __future__ import annotations

import asyncio
import os

import pytest

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor
from tests.contract.sources import Source
from tests.support.images import image

NAME = "registry.example/team/app:1"
MEBIBYTE = 1024 * 1024


async def read(content: Content, start: int, length: int) -> bytes:
    return b"".join([piece async for piece in content.read(start, length)])


async def test_a_tag_resolves_to_its_digest(source: Source) -> None:
    """`resolve` returns the digest under the full name, of an index or an image."""
    one, many = image("one"), image("many", platforms=("amd64", "arm64"))
    await source.add(NAME, one)
    await source.add("docker.io/library/alpine:3", many)
    assert (await source.store.resolve(NAME)).digest == one.root.digest
    assert (await source.store.resolve("docker.io/library/alpine:3")).digest == many.root.digest


async def test_an_unknown_tag_is_not_found(source: Source) -> None:
    """An unknown name raises ContentNotFound, also if only its registry differs."""
    await source.add(NAME, image())
    for name in ("registry.example/team/app:2", "other.example/team/app:1"):
        with pytest.raises(ContentNotFound):
            await source.store.resolve(name)


async def test_a_tag_that_moved_resolves_anew(source: Source) -> None:
    """The latest target counts."""
    await source.add(NAME, image("old"))
    await source.add(NAME, image("new"))
    assert (await source.store.resolve(NAME)).digest == image("new").root.digest


async def test_stat_gives_the_size_of_every_blob(source: Source) -> None:
    """This holds for manifests, configs and layers of all platforms."""
    many = image("many", platforms=("amd64", "arm64"))
    await source.add(NAME, many)
    for blob in many.blobs:
        assert await source.store.stat(blob.digest) == Descriptor(blob.digest, len(blob.data))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_unknown_content_is_not_found(source: Source, algorithm: str) -> None:
    """An unknown digest raises ContentNotFound from `stat` and on entering `open`."""
    await source.add(NAME, image())
    digest = Digest.of(b"never stored", algorithm)
    with pytest.raises(ContentNotFound):
        await source.store.stat(digest)
    with pytest.raises(ContentNotFound):
        async with source.store.open(digest):
            pass


async def test_content_reads_back_whole_and_in_ranges(source: Source) -> None:
    """`read` gives exactly the requested bytes, in pieces of at most 1 MiB. `fd` has the same
    bytes.
    """
    big = image("big", layers=1, size=3 * MEBIBYTE)
    await source.add(NAME, big)
    layer = big.blobs[-1]
    async with source.store.open(layer.digest) as content:
        assert content.size == len(layer.data)
        pieces = [piece async for piece in content.read(0, content.size)]
        assert b"".join(pieces) == layer.data
        assert max(map(len, pieces)) <= MEBIBYTE
        for start, length in (
            (0, 1),
            (1, MEBIBYTE),
            (content.size - 1, 1),
            (5, 0),
            (MEBIBYTE - 1, MEBIBYTE + 2),
        ):
            assert await read(content, start, length) == layer.data[start : start + length]
        if content.fd is not None:
            assert os.pread(content.fd, content.size, 0) == layer.data


async def test_ranges_of_one_content_are_read_at_the_same_time(source: Source) -> None:
    """Readers of one opened content do not disturb each other."""
    big = image("big", layers=1, size=2 * MEBIBYTE)
    await source.add(NAME, big)
    layer = big.blobs[-1]
    async with source.store.open(layer.digest) as content:
        parts = await asyncio.gather(
            *(read(content, start, MEBIBYTE) for start in range(0, MEBIBYTE, 99_999))
        )
    for start, part in zip(range(0, MEBIBYTE, 99_999), parts, strict=True):
        assert part == layer.data[start : start + MEBIBYTE]


async def test_reading_beyond_the_end_is_an_error(source: Source) -> None:
    """A read never gives too few bytes without an error."""
    await source.add(NAME, image())
    async with source.store.open(image().root.digest) as content:
        with pytest.raises(StoreUnavailable):
            await read(content, 0, content.size + 1)


async def test_opened_content_outlives_its_deletion(source: Source) -> None:
    """Opened content is readable to its end after its deletion. Then it is not found."""
    one = image("one", layers=1, size=MEBIBYTE)
    await source.add(NAME, one)
    layer = one.blobs[-1]
    async with source.store.open(layer.digest) as content:
        await source.remove(NAME, one)
        async with asyncio.timeout(10):
            while await _is_here(source, layer.digest):
                await asyncio.sleep(0.02)
        if source.can_read_deleted:
            assert await read(content, 0, content.size) == layer.data


async def test_while_the_source_is_away_names_are_unavailable(source: Source) -> None:
    """`resolve` raises StoreUnavailable quickly, and works again once the source is back."""
    await source.add(NAME, image())
    await source.leave()
    async with asyncio.timeout(3):
        with pytest.raises(StoreUnavailable):
            await source.store.resolve(NAME)
    await source.come_back()
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await source.store.resolve(NAME)).digest == image().root.digest
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def _is_here(source: Source, digest: Digest) -> bool:
    try:
        await source.store.stat(digest)
    except ContentNotFound:
        return False
    return True
