"""The chart with default values on a fresh cluster, and pods that run with the registry stopped."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests import images
from tests.kubernetes.cluster import NAMESPACE, Cluster

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]

APP = images.image("kubernetes-app", layers=3, size=1 << 20, is_runnable=True)
REPOSITORY = "test/app"

FIRST_PULL = 5.0
"""Seconds for the first pull of an image that no node has. It takes about 1 s. A node that waits for
its own download takes 6.5 s for each blob."""


async def test_the_chart_installs_on_a_fresh_cluster(cluster: Cluster) -> None:
    """Every node gets a ready pod, whichever containerd it has, and though that is new."""
    seconds = await cluster.install()
    print(f"installed after {seconds:.1f} s")
    pods = await cluster.get_json("pods", f"--namespace={NAMESPACE}")
    assert {pod["spec"]["nodeName"] for pod in pods["items"]} == {node.name for node in cluster.nodes}
    for pod in pods["items"]:
        assert [each["ready"] for each in pod["status"]["containerStatuses"]] == [True]
        assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]


async def test_a_pod_runs_with_the_registry_away_once_a_node_has_its_image(cluster: Cluster) -> None:
    """The first node pulls each blob from the registry once; the others get it from a peer.

    They pull by tag and by digest.
    """
    first, *others = cluster.nodes
    tag = await cluster.push(f"{REPOSITORY}:1", APP)
    digest = f"{cluster.name(REPOSITORY)}@{APP.root.digest}"

    seconds = await cluster.run_pod("first", first, tag)
    print(f"{first.name}: {seconds:.1f} s from the registry")
    assert seconds < FIRST_PULL
    fetched = Counter(
        request.path.rpartition("/")[2]
        for request in cluster.registry.requests("GET")
        if "/blobs/" in request.path and request.status == 200
    )
    assert fetched == Counter(str(blob.digest) for blob in APP.blobs[1:])
    await cluster.registry.stop()
    try:
        for node in others:
            print(f"{node.name}: {await cluster.run_pod(f'tag-{node.name}', node, tag):.1f} s from a peer")
            seconds = await cluster.run_pod(f"digest-{node.name}", node, digest)
            print(f"{node.name}: {seconds:.1f} s by digest")
        for node in others:
            why = await cluster.exec_in_spegel(node, "spegel-py", "why", REPOSITORY)
            assert "hit, peer" in why, why
        why = await cluster.exec_in_spegel(first, "spegel-py", "why", REPOSITORY)
        assert "hit" not in why, why
    finally:
        await cluster.registry.start()
    for name in ("first", *(f"{kind}-{node.name}" for kind in ("tag", "digest") for node in others)):
        began = time.monotonic()
        await cluster.delete_pod(name)
        assert time.monotonic() - began < 10
