"""Bad input keeps a release from getting ready, and Kubernetes shows in one line what to mend."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.deploy.chart import CHART, merged
from tests.kubernetes.cluster import DEFAULTS, NAMESPACE, PAUSE, RELEASE, Cluster
from tests.kubernetes.node import Node
from tests.support.processes import until

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CERTS = "/etc/containerd/certs.d"

BLOCKER = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "blocker", "namespace": NAMESPACE},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        # without this class, spegel-py's Pod, which has the class, would evict this one
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}],
        "containers": [
            {"name": "main", "image": PAUSE, "ports": [{"containerPort": 5000, "hostPort": 30020}]}
        ],
    },
}
"""A Pod that takes spegel-py's hostPort on its node."""

CONFIG_PATHS: Mapping[str, tuple[str, str]] = {
    "node1": ("", "containerd's config_path is not set: containerd asks no mirror"),
    "node2": (
        "/etc/docker/certs.d",
        f"is /etc/docker/certs.d, but hosts.toml files are written to {CERTS}",
    ),
    "node3": (
        "/srv/certs.d:/etc/docker/certs.d",
        "is /srv/certs.d:/etc/docker/certs.d, but hosts.toml files are",
    ),
}
"""By node: a wrong config_path, and a part of the line that says so."""


async def test_a_selector_that_no_node_has_is_in_what_helm_prints(cluster: Cluster) -> None:
    """Helm and Kubernetes take no Pods for a success; the notes name the labels, and how to look
    for the nodes.
    """
    notes = await deploy(cluster, {"nodeSelector": {"example.org/mirrors": "yes"}})
    assert "If there is none, there is no Pod" in notes
    (command,) = [line.strip() for line in notes.splitlines() if "kubectl get nodes" in line]
    assert command == "kubectl get nodes --selector=example.org/mirrors=yes,kubernetes.io/os=linux"
    assert await cluster.kubectl(*command.split()[1:], "--output=name") == ""
    await cluster.rollout()
    assert (await daemonset(cluster))["status"]["desiredNumberScheduled"] == 0


async def test_a_host_port_that_is_taken_is_named_in_the_events(cluster: Cluster) -> None:
    """The Pod stays Pending on that node alone, and starts when the port is free."""
    node = cluster.nodes[0]
    await cluster.apply(
        merged(BLOCKER, {"spec": {"nodeSelector": {"kubernetes.io/hostname": node.name}}})
    )
    await until(lambda: is_running(cluster, "blocker"), deadline=60.0, pause=0.1)
    await deploy(cluster, {})

    async def are_ready() -> bool:
        return (
            int((await daemonset(cluster))["status"].get("numberReady", 0))
            == len(cluster.nodes) - 1
        )

    await until(are_ready, deadline=90.0, pause=0.2)
    (pending,) = [each for each in await pods(cluster) if each["status"]["phase"] == "Pending"]
    events = await cluster.events(pending["metadata"]["name"], namespace=NAMESPACE)
    assert any(
        "1 node(s) didn't have free ports for the requested pod ports" in event for event in events
    ), events
    await cluster.delete_pod("blocker", namespace=NAMESPACE)
    await cluster.rollout()


async def test_a_containerd_that_reads_another_folder_is_named_in_the_pod(cluster: Cluster) -> None:
    """The Pod says in one line what to write into which file, whether nothing is set, another
    folder, or a list.

    It does so on containerd 1.6, 1.7 and 2.4, and starts once that is mended. A list that has the
    folder will do: it cannot be learned whether containerd takes it for a list, so the log alone
    warns, where it may not.
    """
    for node in cluster.nodes:
        await node.set_config_path(CONFIG_PATHS[node.name][0])
    await delete_pods(cluster)
    for node in cluster.nodes:
        began = time.monotonic()
        line = await message(cluster, node)
        print(f"{node!r} after {time.monotonic() - began:.1f} s: {line}")
        assert line.startswith("spegel-py: containerd's config_path is ")
        assert line.count("\n") == 1
        assert CONFIG_PATHS[node.name][1] in line
        assert f'registry] config_path = "{CERTS}"; then systemctl restart containerd' in line
        described = await cluster.kubectl("describe", "pods", f"--namespace={NAMESPACE}")
        assert line.strip() in described

    for node in cluster.nodes:
        await node.set_config_path(f"{CERTS}:/etc/docker/certs.d")

    async def warn_on_newer_ones() -> bool:
        await delete_pods(cluster)
        await cluster.rollout()
        warns = {}
        for node in cluster.nodes:
            pod = await cluster.spegel_pod(node)
            log = await cluster.kubectl(
                "logs", pod, f"--namespace={NAMESPACE}", "--container=configuration"
            )
            warns[node.containerd[:3]] = "takes this list for one folder" in log
        return warns == {"1.6": False, "1.7": False, "2.4": True}

    await until(
        warn_on_newer_ones, deadline=120.0
    )  # a containerd that has just been started may not answer in time


async def test_an_image_that_cannot_be_pulled_is_named_in_the_events(cluster: Cluster) -> None:
    """One node's Pod waits with the reason; the others go on with the image they have."""
    await deploy(cluster, {"image": {"tag": "missing"}})
    name = ""

    async def fails() -> bool:
        nonlocal name
        for pod in await pods(cluster):
            states = [each["state"] for each in pod["status"].get("initContainerStatuses", ())]
            if any("Pull" in state.get("waiting", {}).get("reason", "") for state in states):
                name = pod["metadata"]["name"]
        return bool(name)

    await until(fails, deadline=60.0, pause=0.2)
    events = await cluster.events(name, namespace=NAMESPACE)
    assert any(
        "Failed to pull image" in event and "spegel-py:missing" in event for event in events
    ), events
    assert (await daemonset(cluster))["status"]["numberReady"] == len(cluster.nodes) - 1


async def deploy(cluster: Cluster, values: Mapping[str, Any]) -> str:
    """Install or upgrade the chart, wait for nothing, and return Helm's output."""
    return await cluster.helm(
        *(
            "upgrade",
            "--install",
            RELEASE,
            str(CHART),
            f"--namespace={NAMESPACE}",
            "--create-namespace",
        ),
        values=merged(DEFAULTS, values),
    )


async def daemonset(cluster: Cluster) -> Any:
    return await cluster.control_plane.api.get(
        f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{RELEASE}"
    )


async def pods(cluster: Cluster) -> list[Any]:
    """Return spegel-py's Pods that are not being deleted."""
    found = await cluster.control_plane.api.get(
        PODS, labelSelector="app.kubernetes.io/component=spegel"
    )
    return [each for each in found["items"] if "deletionTimestamp" not in each["metadata"]]


async def delete_pods(cluster: Cluster) -> None:
    """Delete spegel-py's Pods and wait until each node has another one."""
    old = {pod["metadata"]["name"] for pod in await pods(cluster)}
    await cluster.kubectl(
        "delete", "pods", *sorted(old), f"--namespace={NAMESPACE}", "--wait=false"
    )

    async def are_replaced() -> bool:
        found = {pod["metadata"]["name"] for pod in await pods(cluster)}
        seen = await daemonset(cluster)
        is_seen = seen["status"].get("numberReady", 0) < len(cluster.nodes)
        return is_seen and len(found) == len(cluster.nodes) and not found & old

    await until(are_replaced, deadline=60.0, pause=0.05)


async def is_running(cluster: Cluster, name: str) -> bool:
    found = await cluster.control_plane.api.get(f"{PODS}/{name}")
    return bool(found["status"]["phase"] == "Running")


def failure(status: Mapping[str, Any]) -> str | None:
    """Return the message with which a container failed last, or None if it did not fail."""
    for when in ("state", "lastState"):
        ended = status.get(when, {}).get("terminated")
        if ended and ended["exitCode"]:
            return str(ended["message"])
    return None


async def message(cluster: Cluster, node: Node) -> str:
    """Wait until `configuration` has failed on the node, and return its message."""
    found: list[str] = []

    async def has_failed() -> bool:
        for pod in await pods(cluster):
            if pod["spec"].get("nodeName") == node.name:
                statuses = pod["status"].get("initContainerStatuses", ())
                found.extend(filter(None, map(failure, statuses)))
        return bool(found)

    await until(has_failed, deadline=60.0, pause=0.2)
    return found[0]
