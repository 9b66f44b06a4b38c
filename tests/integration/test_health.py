"""Who is healthy, on real nodes: what a registry that answers nobody, or a node that stands still,
does to pulls."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from spegel_py.health.peer_health import PROOF
from spegel_py.oci.build import Image
from tests.integration.cluster import blob_path, events, heal, metric, publish, start_cluster
from tests.support.images import image
from tests.support.lab import Lab, Node, until
from tests.support.processes import run

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Lab]:
    async with start_cluster(3) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(cluster: Lab) -> Lab:
    """Three nodes, everything of which runs, and is held to be healthy, before each test."""
    for node in cluster.nodes:
        if node.spegel and await metric(node, "spegel_health_peers", state="healthy") != 2:
            await (
                node.spegel.end()
            )  # with what it holds against others: three failed requests count for five minutes
    await heal(cluster)
    for node in cluster.nodes:
        await become(node, "healthy", 2)
    return cluster


@asynccontextmanager
async def black_hole(node: Node) -> AsyncIterator[None]:
    """Let nothing reach a node's registry, while its libp2p side goes on."""
    rule = ("INPUT", "!", "-i", "lo", "-p", "tcp", "--dport", "5000", "-j", "DROP")
    await run(*node.namespace.prefix, "iptables", "-A", *rule)
    try:
        yield
    finally:
        await run(*node.namespace.prefix, "iptables", "-D", *rule)


async def become(node: Node, state: str, count: int, *, deadline: float = 30.0) -> float:
    """Wait until a node holds so many peers to be in a state; return the seconds it took."""
    began = time.monotonic()

    async def is_so() -> bool:
        return await metric(node, "spegel_health_peers", state=state) == count

    await until(is_so, deadline=deadline, pause=0.1)
    return time.monotonic() - began


def asked(puller: Node, app: Image) -> list[str]:
    """Return the addresses that a node asked for an image's blobs."""
    digests = {str(blob.digest) for blob in app.blobs}
    relays = [
        *events(puller, "relay finished", method="GET"),
        *events(puller, "relay missed", method="GET"),
    ]
    return [each["addr"] for one in relays if one["digest"] in digests for each in one["attempts"]]


async def get_all(puller: Node, app: Image) -> None:
    for blob in app.blobs[1:]:
        assert (await puller.get(blob_path(blob))).status == 200


async def test_a_black_hole_is_found_by_checks_alone_and_gets_no_request(lab: Lab) -> None:
    """A registry whose packets are dropped is unhealthy within 30 s though nobody asks it for
    anything and libp2p goes on; it is then asked for no blob while another holder exists, and is
    back after two checks that pass."""
    holder, dead, puller = lab.nodes
    app = image("health/black-hole", layers=8, size=10_000)
    await publish(lab, lab.name("test/app:black-hole"), app, holder, dead)
    async with black_hole(dead):
        assert await become(puller, "unhealthy", 1) < 30
        assert await metric(puller, "spegel_connected_peers") == 2
        await get_all(puller, app)
        assert set(asked(puller, app)) == {f"{holder.address}:5000"}
    await become(puller, "healthy", 2)
    assert events(puller, "peer unhealthy", addr=f"{dead.address}:5000")
    assert events(puller, "peer healthy", addr=f"{dead.address}:5000")


async def test_what_failed_for_one_blob_is_not_tried_for_the_next(lab: Lab) -> None:
    """After the one request that finds a black hole no pull asks it; checks make it certain within
    10 s."""
    holder, dead, puller = lab.nodes
    address = f"{dead.address}:5000"
    app = image("health/next", layers=40, size=2_000)
    await publish(lab, lab.name("test/app:next"), app, holder, dead)
    async with black_hole(dead):
        await asyncio.sleep(PROOF)  # its last answer proves nothing any more
        began = time.monotonic()
        await get_all(puller, app)
        assert asked(puller, app).count(address) == 1
        await become(puller, "unhealthy", 1, deadline=10 - (time.monotonic() - began))
    await become(puller, "healthy", 2)


async def test_a_node_that_stands_still_is_suspected_before_it_is_gone(lab: Lab) -> None:
    """Its silence is foretold to be its end before it is let go, and counted as true; it returns
    when it goes on."""
    _, frozen, puller = lab.nodes
    address = f"{frozen.address}:5000"
    true = await metric(puller, "spegel_health_predictions_total", outcome="true")
    assert frozen.spegel
    frozen.spegel.send(signal.SIGSTOP)
    try:

        async def is_foretold() -> bool:
            return (
                await metric(puller, "spegel_health_predictions_total", outcome="true") == true + 1
            )

        await until(is_foretold, deadline=14, pause=0.1)
    finally:
        frozen.spegel.send(signal.SIGCONT)
    assert events(puller, "failure predicted", addr=address)
    await become(puller, "healthy", 2, deadline=60)


async def test_a_restart_is_no_reason_for_mistrust(lab: Lab) -> None:
    """A node that is killed and started again has its weight at once: what was held against it is
    forgotten."""
    _, restarted, puller = lab.nodes
    assert restarted.spegel
    await restarted.spegel.end(signal.SIGKILL)

    async def is_known() -> bool:
        return bool(events(puller, "peer lost", addr=f"{restarted.address}:5000"))

    await until(is_known, deadline=5)
    await heal(lab)
    await become(puller, "healthy", 2)
    assert await metric(puller, "spegel_health_peers", state="unhealthy") == 0
