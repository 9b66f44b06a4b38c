"""Requests of nodes that take images in the background: all other requests go first."""

from __future__ import annotations

import asyncio
import http.client
import time

import pytest

from spegel_py.errors import Busy
from spegel_py.metrics import NodeMetrics
from spegel_py.registry.background_pieces import PIECE
from spegel_py.registry.transfer_limits import LINGER, TransferLimits
from tests.unit.registry.conftest import Node, NodeFactory

DATA = bytes(range(256)) * (5 * PIECE // 512)
"""Two pieces and a half."""

BACKGROUND = {"X-Spegel-Client": "replica"}


class CountingGate:
    """A gate that counts, and is open."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


async def get(node: Node, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize(("headers", "count"), [({}, 0), (BACKGROUND, 3)])
async def test_a_body_in_the_background_waits_before_each_piece(
    headers: dict[str, str], count: int, start: NodeFactory
) -> None:
    """The bytes are the same."""
    gate = CountingGate()
    async with start(gate=gate) as node:
        digest = node.store.add(DATA)
        assert await get(node, f"/v2/app/blobs/{digest}", headers) == (200, DATA)
    assert gate.count == count


@pytest.mark.parametrize(("headers", "count"), [({}, 0), (BACKGROUND, 3)])
async def test_a_peer_is_told_that_a_request_is_in_the_background(
    headers: dict[str, str], count: int, start: NodeFactory
) -> None:
    """A relayed request keeps its class, so the sending node lets others go first too."""
    gate = CountingGate()
    async with start("holder", gate=gate) as holder, start("asking") as asking:
        digest = holder.store.add(DATA)
        await holder.network.join(holder.peer).advertise([str(digest)])
        assert await get(asking, f"/v2/app/blobs/{digest}", headers) == (200, DATA)
    assert gate.count == count


def test_background_transfers_get_half_of_the_slots() -> None:
    """The others stay free for runtimes."""
    some = TransferLimits(per_peer=0, overall=4, metrics=NodeMetrics().server)
    with (
        some.admit("a", is_background=True),
        some.admit("b", is_background=True),
        pytest.raises(Busy),
        some.admit("c", is_background=True),
    ):
        pass
    with some.admit("a", is_background=True), some.admit("b"), some.admit("c"), some.admit("d"):
        pass


def test_a_transfer_to_a_runtime_is_in_the_foreground() -> None:
    """So is a moment after a request: the runtime asks for layers next."""
    now = time.monotonic()
    some = TransferLimits(per_peer=0, overall=0, metrics=NodeMetrics().server, clock=lambda: now)
    with some.relay("a", is_background=True), some.admit("b", is_background=True):
        assert not some.has_foreground
        with some.relay("a"):
            assert some.has_foreground
        with some.admit("b"):
            assert some.has_foreground
    some.record_foreground()
    assert some.has_foreground
    now += LINGER
    assert not some.has_foreground
