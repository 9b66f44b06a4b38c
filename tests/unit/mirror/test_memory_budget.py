"""The memory of all pulls together.

It is bounded, released, and never the reason for a failed pull.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from spegel_py.errors import BlobUnknown
from spegel_py.mirror.verification import MemoryBudget
from spegel_py.oci.digest import Digest
from tests.unit.mirror.lab import (
    LARGE,
    MANIFEST,
    QUICK,
    MemorySink,
    blob,
    manifest,
    manifest_peer,
    start_lab,
)
from tests.unit.mirror.peers import FakePeer

BLOBS = [bytes([number]) * 100_000 for number in range(4)]


async def test_bytes_are_free_again_once_they_are_given_back() -> None:
    """A waiting pull goes on when bytes are released, and not earlier."""
    budget = MemoryBudget(limit=10)
    assert budget.try_reserve(6)
    assert not budget.try_reserve(5)
    waiting = asyncio.create_task(budget.reserve(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.release(6)
    await asyncio.wait_for(waiting, 5)
    assert budget.reserved == 5


@pytest.mark.parametrize("is_right", [True, False])
async def test_a_small_blob_without_memory_is_verified_on_its_way(is_right: bool) -> None:
    """Pulls whose clients do not read hold all memory.

    The next pull is relayed all the same, and never with wrong bytes.
    """
    async with start_lab() as lab, AsyncExitStack() as stack:
        lab.mirror._memory = budget = MemoryBudget(limit=2 * len(BLOBS[0]))
        *slow, last = BLOBS[:3]
        served = last if is_right else last[:-1] + b"x"
        for data in (*slow, served):
            await lab.serve(FakePeer(data))
            peer = lab.peers[-1]
            await lab.network.join(peer).advertise(
                [str(Digest.of(last if data is served else data))]
            )
        for data in slow:
            await stack.enter_async_context(lab.mirror.fetch(blob(data)))
        assert budget.reserved == 2 * len(BLOBS[0])
        sink = MemorySink()
        async with lab.mirror.fetch(blob(last)) as relay:
            assert await relay.send(sink) is is_right
        assert (bytes(sink.taken) == last) is is_right
        assert budget.reserved == 2 * len(BLOBS[0])
        await stack.aclose()
        assert budget.reserved == 0


async def test_memory_is_given_back_however_a_pull_ends() -> None:
    """The body was sent or never sent, the client left, or the peer failed or was refused."""
    async with start_lab() as lab:
        budget = lab.mirror._memory
        await lab.serve(FakePeer(BLOBS[0]))
        assert (await lab.pull(blob(BLOBS[0])))[2]
        assert budget.reserved == 0
        with pytest.raises(Exception, match="enough"):
            await lab.pull(blob(BLOBS[0]), MemorySink(limit=0))
        assert budget.reserved == 0
        with pytest.raises(BlobUnknown):  # its bytes are another blob's
            await lab.pull(blob(BLOBS[1]))
        assert budget.reserved == 0


async def test_a_manifest_waits_for_memory() -> None:
    """A manifest cannot be relayed before all of it is verified."""
    async with start_lab() as lab:
        lab.mirror._memory = budget = MemoryBudget(limit=len(MANIFEST) + 1)
        await lab.serve(manifest_peer())
        await budget.reserve(2)
        waiting = asyncio.create_task(lab.pull(manifest(Digest.of(MANIFEST))))
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        budget.release(2)
        assert (await asyncio.wait_for(waiting, 5))[1] == MANIFEST
        assert budget.reserved == 0


async def test_a_peer_that_stalls_before_its_first_byte_is_not_asked_for_that_again() -> None:
    """A runtime asks this mirror again at once, and must be sent upstream then.

    Three failures end its pull.
    """
    async with start_lab(deadlines=QUICK) as lab:
        await lab.serve(FakePeer(LARGE, cut_at=0, ending="stall"))
        _, taken, is_complete = await lab.pull(blob(LARGE))
        assert (taken, is_complete) == (b"", False)
        with pytest.raises(BlobUnknown):
            await lab.pull(blob(LARGE))
        assert sum(lab.attempts().values()) == 1
