"""Pulls during which something dies: containerd's pull always succeeds, from another peer or from
the registry.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from spegel_py.oci.build import Image
from tests.integration.cluster import (
    events,
    exit_status,
    has_moved,
    heal,
    kill_node,
    limited,
    metric,
    publish,
    registry_away,
    start_cluster,
)
from tests.support.images import image
from tests.support.lab import Lab, Node, until
from tests.support.processes import Process

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.asyncio(loop_scope="module")]

SIZE = 24_000_000
"""Bytes of the one layer: what kernels buffer (about 8 MB) is far from its end."""

MOVED = 4_000_000
"""Bytes that have come when the fault strikes."""

RATE = "40mbit"
"""Of the pulling node's link: the layer takes 5 s."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Lab]:
    async with start_cluster(3) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(cluster: Lab) -> Lab:
    """Three nodes, everything of which runs again before each test."""
    await heal(cluster)
    return cluster


async def kill_spegel(node: Node) -> None:
    assert node.spegel
    await node.spegel.end(signal.SIGKILL)


@asynccontextmanager
async def pulling(node: Node, reference: str) -> AsyncIterator[asyncio.Task[str]]:
    """Pull slowly; the block starts in mid-blob and the link is fast again when it ends; then the
    pull must succeed.
    """
    pull = asyncio.create_task(node.cri.pull(reference))
    async with limited(node, RATE):
        await has_moved(node, MOVED)
        assert not pull.done()
        yield pull
    async with asyncio.timeout(30):
        await pull
    assert await node.cri.status(reference)


def server(lab: Lab, puller: Node, app: Image) -> Node:
    """Return the node that the layer of a pull under way comes from."""
    [start] = events(puller, "relay started", digest=str(app.blobs[-1].digest), method="GET")
    [node] = [node for node in lab.nodes if start["addr"] == f"{node.address}:5000"]
    return node


@pytest.mark.parametrize("kill", [kill_spegel, kill_node], ids=["process", "machine"])
async def test_another_holder_goes_on_where_one_died(
    lab: Lab, kill: Callable[[Node], Awaitable[None]]
) -> None:
    """With kill -9 in mid-blob the layer goes on at the same byte from another holder, and
    containerd sees nothing.
    """
    app = image(f"continued/{kill.__name__}", layers=1, size=SIZE)
    reference = lab.name(f"test/app:continued-{kill.__name__}")
    *holders, puller = lab.nodes
    await publish(lab, reference, app, *holders)
    async with registry_away(lab):
        async with pulling(puller, reference):
            dead = server(lab, puller, app)
            await kill(dead)
        [end] = events(puller, "relay finished", digest=str(app.blobs[-1].digest), method="GET")
    assert end["outcome"] == "complete"
    assert end["total"] == len(app.blobs[-1].data)
    first, second = [attempt for attempt in end["attempts"] if attempt["bytes"]]
    assert MOVED <= first["bytes"] == second["offset"] < SIZE
    assert {first["addr"], second["addr"]} == {f"{holder.address}:5000" for holder in holders}


@pytest.mark.parametrize("kill", [kill_spegel, kill_node], ids=["process", "machine"])
async def test_containerd_goes_on_upstream_where_the_only_holder_died(
    lab: Lab, kill: Callable[[Node], Awaitable[None]]
) -> None:
    """Where nobody else has the rest, the body ends short and gently, and containerd asks the
    registry for the rest.
    """
    app = image(f"upstream/{kill.__name__}", layers=1, size=SIZE)
    reference = lab.name(f"test/app:upstream-{kill.__name__}")
    holder, _, puller = lab.nodes
    await publish(lab, reference, app, holder)
    async with pulling(puller, reference):
        await kill(holder)
    [rest] = [one for one in lab.registry.requests("GET") if "/blobs/" in one.path]
    assert rest.status == 206
    assert rest.size < SIZE - MOVED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
async def test_a_pull_survives_the_end_of_its_own_mirror(lab: Lab, number: int) -> None:
    """When the mirror beside containerd ends in mid-blob, as in an upgrade, containerd goes on
    upstream.
    """
    app = image(f"own/{number}", layers=1, size=SIZE)
    reference = lab.name(f"test/app:own-{number}")
    holder, _, puller = lab.nodes
    await publish(lab, reference, app, holder)
    pull = asyncio.create_task(puller.cri.pull(reference))
    async with limited(puller, "10mbit"):  # slower than any drain is long
        await has_moved(puller, MOVED)
        assert puller.spegel
        process = puller.spegel
        process.send(number)
        async with asyncio.timeout(20):  # 10 to drain, and the goodbyes
            status = await exit_status(process)
    async with asyncio.timeout(30):
        await pull
    assert status == (0 if number == signal.SIGTERM else -number)
    [rest] = [one for one in lab.registry.requests("GET") if "/blobs/" in one.path]
    assert rest.status == 206


async def test_a_node_that_ends_finishes_what_it_sends(lab: Lab) -> None:
    """On SIGTERM a node says goodbye within a second, sends its transfer to the end, and exits with
    0 within ten.
    """
    app = image("drained", layers=1, size=SIZE)
    reference = lab.name("test/app:drained")
    holder, other, puller = lab.nodes
    await publish(lab, reference, app, holder)
    async with registry_away(lab):
        assert holder.spegel
        process: Process = holder.spegel
        async with pulling(puller, reference) as pull:
            process.send(signal.SIGTERM)

            async def is_gone() -> bool:
                return await metric(other, "spegel_connected_peers") == 1

            await until(is_gone, deadline=1.0)
            assert not pull.done()
        async with asyncio.timeout(10):
            assert await exit_status(process) == 0
    [end] = events(puller, "relay finished", digest=str(app.blobs[-1].digest), method="GET")
    assert [attempt["outcome"] for attempt in end["attempts"]] == ["ok"]
