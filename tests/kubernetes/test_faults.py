"""Faults of a node on a real Kubernetes: pulls go on, and the node heals by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.kubernetes.cluster import NAMESPACE, Cluster
from tests.kubernetes.node import Node
from tests.kubernetes.rolling import pulled
from tests.support import images
from tests.support.processes import until

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]

HUNG = 15.0
"""Seconds within which a pull ends on a node whose registry hangs."""


@asynccontextmanager
async def held_by(cluster: Cluster, name: str, *holders: Node) -> AsyncIterator[str]:
    """Give an image that these nodes hold, while the registry is away."""
    reference = await cluster.push(f"{name}/app:1", images.image(name, layers=3, size=300_000))
    await asyncio.gather(*(node.ctr_pull(reference) for node in holders))
    await cluster.registry.stop()
    try:
        yield reference
    finally:
        await cluster.registry.start()


async def restarts(cluster: Cluster, node: Node) -> int:
    pod = await cluster.get_json("pod", await cluster.spegel_pod(node), f"--namespace={NAMESPACE}")
    (status,) = pod["status"]["containerStatuses"]
    return int(status["restartCount"])


async def identity(cluster: Cluster, node: Node) -> str:
    """Return the key that makes a node the same node for its peers."""
    key = (
        "import hashlib; print(hashlib.sha256(open('/var/lib/spegel/private.key', "
        "'rb').read()).hexdigest())"
    )
    return await cluster.exec_in_spegel(node, "python", "-c", key)


async def test_containerd_is_restarted(cluster: Cluster) -> None:
    """The pod stays, serves what it holds, and hears of new images again, on every version of
    containerd.
    """
    await cluster.install()
    for node, other in zip(cluster.nodes, [*cluster.nodes[1:], cluster.nodes[0]], strict=True):
        async with held_by(cluster, f"before-{node.name}", node) as reference:
            process = node.spegel_pid()
            await node.restart_containerd()
            await pulled(other, reference)
        async with held_by(cluster, f"after-{node.name}", node) as reference:
            await pulled(other, reference)
        assert node.spegel_pid() == process
        assert await restarts(cluster, node) == 0


async def test_a_nodes_power_is_cut(cluster: Cluster) -> None:
    """Others pull on while it is off; when it is back it is the node it was, and gives and takes at
    once.
    """
    node, other, third = cluster.nodes
    before = await identity(cluster, node)
    async with held_by(cluster, "power", node, other) as reference:
        await node.power_off()
        await pulled(third, reference)
        await node.start()
        await cluster.until_ready(node)
        await until(lambda: _runs(node), deadline=60.0)
        await cluster.rollout()
    assert await identity(cluster, node) == before
    async with held_by(cluster, "power-gives", node) as reference:
        await pulled(third, reference)
    async with held_by(cluster, "power-takes", other) as reference:
        await pulled(node, reference)


async def test_a_node_is_drained(cluster: Cluster) -> None:
    """The pod stays on a drained node, which gives what it holds until it is switched off."""
    node, other, _ = cluster.nodes
    reference = await cluster.push("drain/pod:1", images.image("drain-pod", is_runnable=True))
    await cluster.run_pod("drained", node, reference)
    async with held_by(cluster, "drain", node) as reference:
        await cluster.kubectl("drain", node.name, "--ignore-daemonsets", "--force", "--timeout=30s")
        await pulled(other, reference)
        await cluster.kubectl("uncordon", node.name)
    assert node.spegel_pid()


async def test_a_process_hangs(cluster: Cluster) -> None:
    """A pull on its node ends within seconds, since Kubernetes replaces the process soon."""
    node, other, _ = cluster.nodes
    async with held_by(cluster, "hung", other) as reference:
        count = await restarts(cluster, node)
        os.kill(node.spegel_pid(), signal.SIGSTOP)
        began = time.monotonic()
        await node.ctr_pull(reference)
        assert time.monotonic() - began < HUNG

        async def is_restarted() -> bool:
            return await restarts(cluster, node) == count + 1

        await until(is_restarted, deadline=HUNG, pause=0.2)
        await cluster.rollout()


async def test_a_cordoned_node_gives_its_only_copies_away(cluster: Cluster) -> None:
    """It drains until it is uncordoned, by what the real API says to its ServiceAccount."""
    node, other, third = cluster.nodes
    await cluster.install({"spegel": {"evacuateCordoned": True}})
    async with held_by(cluster, "cordon", node):
        await cluster.kubectl("cordon", node.name)

        async def is_away() -> bool:
            kept = [await cluster.metric(one, "spegel_replicas") for one in (other, third)]
            return sum(kept) > 0

        await until(is_away, deadline=60.0, pause=0.5)
        assert await cluster.metric(node, "spegel_draining", cause="cordoned") == 1
        await cluster.kubectl("uncordon", node.name)

        async def is_over() -> bool:
            return await cluster.metric(node, "spegel_draining") == 0

        await until(is_over, deadline=60.0, pause=0.5)


async def _runs(node: Node) -> bool:
    try:
        return bool(node.spegel_pid())
    except LookupError:
        return False
