"""The contract of every Ingests, on a real daemon too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store import inotify
from tests.contract.conftest import CONTAINERD
from tests.contract.pulling import ContainerdPulling, LayoutPulling, MemoryPulling, Pulling
from tests.support.processes import descriptors, until

MIB = 1024 * 1024
DATA = bytes(range(256)) * (3 * MIB // 256)
DIGEST = Digest.of(DATA)
DEADLINE = 10.0


@pytest.fixture(params=["memory", "layout", pytest.param("containerd", marks=CONTAINERD)])
async def pulling(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pulling]:
    """A place into which no content is being pulled yet."""
    made: Pulling
    match request.param:
        case "memory":
            made = MemoryPulling()
        case "layout":
            made = LayoutPulling(tmp_path)
        case _:
            made = await ContainerdPulling.start()
    yield made
    await made.close()


async def test_what_nobody_pulls_is_not_found(pulling: Pulling) -> None:
    """It is not found before the first pull, nor during a pull of other content."""
    other = Digest.of(b"other")
    with pytest.raises(ContentNotFound):
        async with pulling.ingests.open(DIGEST):
            pass
    await pulling.begin(other, 5)
    with pytest.raises(ContentNotFound):
        async with pulling.ingests.open(DIGEST):
            pass


async def test_what_is_pulled_is_read_as_it_grows(pulling: Pulling) -> None:
    """The length is known from the start. Each byte is readable at once and after the commit."""
    await pulling.begin(DIGEST, len(DATA))
    async with asyncio.timeout(DEADLINE), pulling.ingests.open(DIGEST) as ingest:
        assert (ingest.total, ingest.size, ingest.is_over) == (len(DATA), 0, False)
        for number in range(3):
            waiting = asyncio.create_task(ingest.wait_beyond(number * MIB))
            await asyncio.sleep(0)
            assert not waiting.done()
            await pulling.write(DIGEST, DATA[number * MIB : (number + 1) * MIB])
            await waiting
            assert os.pread(ingest.fd, MIB, number * MIB)[:256] == DATA[:256]
        while not ingest.is_complete:
            await ingest.wait_beyond(ingest.size)
        await pulling.commit(DIGEST)
        await ingest.wait_beyond(len(DATA))
        assert ingest.is_over
        assert os.pread(ingest.fd, len(DATA), 0) == DATA


async def test_a_writer_that_dies_is_seen_at_once(pulling: Pulling) -> None:
    """A waiting reader learns that no more bytes will come, and keeps its bytes."""
    await pulling.begin(DIGEST, len(DATA))
    async with asyncio.timeout(DEADLINE), pulling.ingests.open(DIGEST) as ingest:
        await pulling.write(DIGEST, DATA[:MIB])
        await ingest.wait_beyond(MIB - 1)
        waiting = asyncio.create_task(ingest.wait_beyond(MIB))
        await asyncio.sleep(0)
        await pulling.fail(DIGEST)
        await waiting
        assert (ingest.is_over, ingest.is_complete, ingest.size) == (True, False, MIB)


async def test_many_read_the_same_at_the_same_time(pulling: Pulling) -> None:
    """All readers are woken, in any order. A reader that leaves does not disturb the others."""
    await pulling.begin(DIGEST, len(DATA))
    async with asyncio.timeout(DEADLINE), pulling.ingests.open(DIGEST) as first:
        async with pulling.ingests.open(DIGEST) as second:
            both = asyncio.gather(first.wait_beyond(0), second.wait_beyond(0))
            await asyncio.sleep(0)
            await pulling.write(DIGEST, DATA[:MIB])
            await both
        await pulling.write(DIGEST, DATA[MIB : 2 * MIB])
        await first.wait_beyond(2 * MIB - 1)


async def test_what_is_open_is_known_until_it_ends(pulling: Pulling) -> None:
    """A reader that wants it too need not search. Ended content is searched in the store."""
    await pulling.begin(DIGEST, len(DATA))
    assert not pulling.ingests.has_open(DIGEST)
    async with asyncio.timeout(DEADLINE), pulling.ingests.open(DIGEST) as ingest:
        assert pulling.ingests.has_open(DIGEST)
        assert not pulling.ingests.has_open(Digest.of(b"other"))
        await pulling.write(DIGEST, DATA)
        await pulling.commit(DIGEST)
        await ingest.wait_over()
        assert not pulling.ingests.has_open(DIGEST)


async def test_who_begins_anew_is_found_though_the_last_one_is_still_read(pulling: Pulling) -> None:
    """A reader of a dead writer's file must not hide the next writer."""
    await pulling.begin(DIGEST, len(DATA))
    async with asyncio.timeout(DEADLINE), pulling.ingests.open(DIGEST) as first:
        await pulling.write(DIGEST, DATA[:MIB])
        await pulling.fail(DIGEST)
        await first.wait_over()
        await pulling.begin(DIGEST, len(DATA))
        async with pulling.ingests.open(DIGEST) as second:
            assert not second.is_over
            await pulling.write(DIGEST, DATA)
            await second.wait_beyond(len(DATA) - 1)


async def test_no_descriptor_is_left(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon after the last reader has left, this process has as many descriptors as before."""
    monkeypatch.setattr(inotify, "LINGER", 0.0)
    await pulling.begin(DIGEST, len(DATA))
    before = descriptors()
    for _ in range(3):
        async with pulling.ingests.open(DIGEST), pulling.ingests.open(DIGEST):
            pass

    async def are_closed() -> bool:
        return descriptors() <= before  # descriptors of an earlier test may be closed meanwhile

    await until(are_closed)
