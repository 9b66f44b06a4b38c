"""Uninstalling gives every node its certs.d back, or fails and says which node is missing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.deploy.chart import CHART, merged
from tests.docs.examples import examples
from tests.kubernetes.api import ApiError
from tests.kubernetes.cluster import DEFAULTS, NAMESPACE, RELEASE, Cluster
from tests.kubernetes.node import Node
from tests.kubernetes.quick_start import PAGE, Shell, follow_the_page
from tests.support.host_trees import described, make_rich
from tests.support.processes import CommandFailed, until

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]

LABEL = "example.org/mirrors"
CLEANUP = f"{RELEASE}-cleanup"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
KINDS = (
    "daemonsets,jobs,pods,services,serviceaccounts,roles,rolebindings,secrets,configmaps,"
    "controllerrevisions"
)
NOT_OURS = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
"""Objects that Kubernetes puts into every namespace."""

VALUES: Mapping[str, Any] = {
    # Longer than a test keeps a node from being done, and shorter than the 40 s until Kubernetes
    # notices a dead node.
    "cleanup": {"giveUp": "20s"},
    "updateStrategy": {
        "rollingUpdate": {"maxUnavailable": "100%"}
    },  # all nodes at once, for the test's own time
}

Before = Mapping[str, Mapping[str, tuple[object, ...]] | None]
"""Every node's certs.d as it was, by the node's name."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def before(cluster: Cluster) -> Before:
    """Every node's certs.d before the first install: files, folders and links of several users."""
    for node in cluster.nodes:
        make_rich(node.certs)
    return {node.name: described(node.certs) for node in cluster.nodes}


async def test_a_release_of_a_moment_ago_is_uninstalled(cluster: Cluster, before: Before) -> None:
    """Also while its Pods are starting; and nothing of that disturbs the release that is installed
    next, at once.
    """
    await start_install(cluster, VALUES)
    await uninstall(cluster, "--timeout=120s")
    assert {node.name: described(node.certs) for node in cluster.nodes} == before
    print(f"installed again after {await cluster.install(VALUES):.1f} s")
    await until(lambda: has_no_cleanup(cluster), deadline=60.0, pause=0.2)
    assert all(is_configured(node) for node in cluster.nodes)


async def test_a_node_without_power_keeps_the_release_and_is_named(
    cluster: Cluster, before: Before
) -> None:
    """Helm names the node, though Kubernetes still takes it for Ready; the other nodes' folders are
    as they were.

    One of these is the folder of a node that the release had left before. The next test uninstalls
    the release.
    """
    away, _, left = cluster.nodes
    await cluster.install(VALUES)
    assert all(is_configured(node) for node in cluster.nodes)

    await cluster.kubectl(
        "label", "nodes", *(node.name for node in cluster.nodes if node is not left), f"{LABEL}=yes"
    )
    print(
        "upgraded after "
        f"{await cluster.install(merged(VALUES, {'nodeSelector': {LABEL: 'yes'}})):.1f} s"
    )
    await until(lambda: has_no_pod(cluster, left), deadline=60.0, pause=0.2)
    assert is_configured(left)

    # Where no other Pod may run on the third node, one of the two that wait runs on the node
    # without power.
    await cluster.kubectl("cordon", left.name)
    await away.power_off()
    began = time.monotonic()
    with pytest.raises(CommandFailed) as failure:
        await uninstall(cluster, "--timeout=60s")
    print(f"failed after {time.monotonic() - began:.1f} s:\n{failure.value}")
    assert f"2 of 3 nodes are done; not done: {away.name} (" in str(failure.value)
    assert "bring these nodes back" in str(failure.value)
    status = json.loads(
        await cluster.helm("status", RELEASE, f"--namespace={NAMESPACE}", "--output=json")
    )
    assert status["name"] == RELEASE
    assert {node: described(node.certs) == before[node.name] for node in cluster.nodes} == {
        node: node is not away for node in cluster.nodes
    }

    await away.start()
    await cluster.until_ready(away)
    await cluster.kubectl("uncordon", left.name)


async def test_a_pod_that_starts_while_the_release_is_uninstalled_configures_nothing(
    cluster: Cluster, before: Before
) -> None:
    """Neither while Helm waits for another node, nor just before the release is deleted. All is
    then as it was before.

    The first node's Pods are deleted once that node is done, so new ones start there.
    """
    first, *_, last = cluster.nodes
    if not await is_installed(cluster):
        await cluster.install(VALUES)
    async with asyncio.TaskGroup() as group:
        os.kill(last.service("kubelet"), signal.SIGSTOP)  # so that this node is not done
        try:
            uninstalling = group.create_task(uninstall(cluster, "--timeout=120s"))
            await until(lambda: is_clean(cluster, first), deadline=60.0, pause=0.1)
            old = await cluster.spegel_pod(first)
            await cluster.delete_pod(old, namespace=NAMESPACE)
            await until(lambda: waits_for_the_lock(cluster, first, old), deadline=60.0, pause=0.1)
        finally:
            os.kill(last.service("kubelet"), signal.SIGCONT)
        assert described(first.certs) == before[first.name]
        await until(
            lambda: is_gone(cluster, f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{CLEANUP}"),
            deadline=90,
        )
        await cluster.kubectl("delete", "pods", f"--namespace={NAMESPACE}", "--all", "--wait=false")
        await uninstalling
    await is_as_before(cluster, before)


async def test_a_release_whose_image_cannot_be_pulled_is_uninstalled_without_hooks(
    cluster: Cluster, before: Before, tmp_path: Path
) -> None:
    """The hooks have no image either: Helm fails with the name of a Pod whose events say why.

    The guide's commands are the way out; no node was configured.
    """
    await start_install(cluster, {"image": {"tag": "missing"}})
    with pytest.raises(CommandFailed) as failure:
        await uninstall(cluster, "--timeout=8s")
    print(failure.value)
    found = await cluster.control_plane.api.get(
        PODS, labelSelector="app.kubernetes.io/component=cleanup-wait"
    )
    (named, *_) = [
        pod["metadata"]["name"]
        for pod in found["items"]
        if pod["metadata"]["name"] in str(failure.value)
    ]
    events = await cluster.events(named, namespace=NAMESPACE)
    assert any(
        "Failed to pull image" in event and "spegel-py:missing" in event for event in events
    ), events
    [way_out] = examples(PAGE, story="stuck")
    await Shell(cluster, tmp_path).perform(way_out)
    await is_as_before(cluster, before)


async def test_the_quick_start_of_the_guide_works_and_leaves_nothing(
    cluster: Cluster, before: Before, tmp_path: Path
) -> None:
    """Its commands print what the page shows; the nodes' folders and the API are as before."""
    await follow_the_page(cluster, tmp_path)
    for node in cluster.nodes:
        assert described(node.certs) == before[node.name], node.name
    namespaces = await cluster.get_json("namespaces")
    assert NAMESPACE not in {each["metadata"]["name"] for each in namespaces["items"]}
    assert (await cluster.get_json("pods", "--all-namespaces"))["items"] == []


def is_configured(node: Node) -> bool:
    """Return True if the node's containerd is told of the mirror."""
    return any("30020" in path.read_text() for path in node.certs.glob("[!_]*/hosts.toml"))


async def is_as_before(cluster: Cluster, before: Before) -> None:
    """Wait until nothing of the release is left, and compare every node's certs.d."""
    left: set[tuple[str, str]] = set()

    async def is_empty() -> bool:
        found = await cluster.get_json(KINDS, f"--namespace={NAMESPACE}")
        left.clear()
        left.update((each["kind"], each["metadata"]["name"]) for each in found["items"])
        return left == NOT_OURS

    try:
        await until(is_empty, deadline=60.0, pause=0.3)
    except TimeoutError as error:
        raise AssertionError(f"left in the namespace: {sorted(left - NOT_OURS)}") from error
    for node in cluster.nodes:
        assert described(node.certs) == before[node.name], node.name


async def start_install(cluster: Cluster, values: Mapping[str, Any]) -> None:
    """Install the chart and wait for nothing."""
    await cluster.helm(
        *("install", RELEASE, str(CHART), f"--namespace={NAMESPACE}", "--create-namespace"),
        values=merged(DEFAULTS, values),
    )


async def is_installed(cluster: Cluster) -> bool:
    """Return True if Helm knows the release, also one that could not be uninstalled."""
    with suppress(CommandFailed):
        await cluster.helm("status", RELEASE, f"--namespace={NAMESPACE}")
        return True
    return False


async def uninstall(cluster: Cluster, *arguments: str) -> None:
    """Uninstall the release, as a person does."""
    await cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", *arguments)


async def pods(cluster: Cluster, component: str, node: Node) -> list[Any]:
    found = await cluster.control_plane.api.get(
        PODS,
        labelSelector=f"app.kubernetes.io/component={component}",
        fieldSelector=f"spec.nodeName={node.name}",
    )
    return list(found["items"])


async def has_no_pod(cluster: Cluster, node: Node) -> bool:
    return not await pods(cluster, "spegel", node)


async def has_no_cleanup(cluster: Cluster) -> bool:
    found = await cluster.control_plane.api.get(
        PODS, labelSelector="app.kubernetes.io/component=cleanup"
    )
    return not found["items"]


async def is_clean(cluster: Cluster, node: Node) -> bool:
    """Return True if the node's clean-up is ready."""
    living = [
        pod
        for pod in await pods(cluster, "cleanup", node)
        if "deletionTimestamp" not in pod["metadata"]
    ]
    conditions = [each for pod in living for each in pod["status"].get("conditions", ())]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def waits_for_the_lock(cluster: Cluster, node: Node, old: str) -> bool:
    """Return True if a newer Pod on the node runs `configuration`."""
    for pod in await pods(cluster, "spegel", node):
        if pod["metadata"]["name"] != old:
            return any(
                "running" in each["state"]
                for each in pod["status"].get("initContainerStatuses", ())
            )
    return False


async def is_gone(cluster: Cluster, path: str) -> bool:
    with suppress(ApiError):
        await cluster.control_plane.api.get(path)
        return False
    return True
