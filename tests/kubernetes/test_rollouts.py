"""Pulls go on while spegel-py's pods are replaced, one node after the other, and the registry is
away.
"""

from __future__ import annotations

import json

import pytest

from tests.kubernetes import addresses
from tests.kubernetes.cluster import NAMESPACE, RELEASE, Cluster
from tests.kubernetes.rolling import pulled, pulling, restart
from tests.support import images
from tests.support.lab import fetch

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]


async def test_no_pull_fails_in_a_rolling_restart(cluster: Cluster) -> None:
    """Every node pulls all the time from the others, each of which is replaced in turn."""
    await cluster.install()
    async with pulling(cluster) as pulls:
        await restart(cluster)
    assert [each.failures for each in pulls] == [[], [], []]
    assert min(len(each.seconds) for each in pulls) > 10


async def test_no_pull_fails_while_a_release_is_upgraded_and_rolled_back(cluster: Cluster) -> None:
    """Both replace every pod, with other settings and with those from before."""
    async with pulling(cluster) as pulls:
        await cluster.install({"spegel": {"logLevel": "DEBUG"}})
        await cluster.helm("rollback", RELEASE, "1", f"--namespace={NAMESPACE}")
        await cluster.rollout()
    assert [each.failures for each in pulls] == [[], [], []]
    daemonset = await cluster.get_json("daemonset", RELEASE, f"--namespace={NAMESPACE}")
    (registry,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert "--log-level=INFO" in registry["args"]


AT_ONCE = {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}


async def test_a_closed_registry_serves_its_own_node(cluster: Cluster) -> None:
    """Without a node port, on the loopback address and with a password, only the node's own
    containerd gets in.
    """
    secret = {"username": "spegel", "password": "pa55word"}
    await cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "mirror-password", "namespace": NAMESPACE},
            "stringData": secret,
        }
    )
    closed = {
        "service": {"registry": {"nodePort": 0, "hostIP": "127.0.0.1"}},
        "basicAuthSecretName": "mirror-password",
    }
    await cluster.install(closed | AT_ONCE)
    holder, *others = cluster.nodes
    reference = await cluster.push("closed/app:1", images.image("closed", layers=2, size=300_000))
    await holder.ctr_pull(reference)
    await cluster.registry.stop()
    try:
        for node in others:
            await pulled(node, reference)
            (file,) = node.certs.glob("10.97.0.2*/hosts.toml")
            assert file.stat().st_mode & 0o777 == 0o600
            assert "30021" not in file.read_text()
    finally:
        await cluster.registry.start()
    answer = await fetch(holder.namespace, "127.0.0.1", 30020, "/v2/", "GET", {}, 5.0)
    assert answer.status == 401
    with pytest.raises(OSError, match=r"refused|timed out"):
        await fetch(others[0].namespace, holder.address, 30020, "/v2/", "GET", {}, 5.0)


async def test_the_runtimes_door_is_open_to_the_nodes_own_containerd_alone(
    cluster: Cluster,
) -> None:
    """With a token and a port for the runtime, neither Pods nor other machines read images."""
    door = {
        "service": {"registry": {"nodePort": 0}},
        "runtime": {"token": True, "port": 5002},
        "spegel": {"peerProofs": "require"},
    }
    await cluster.install(door | AT_ONCE)
    holder, *others = cluster.nodes
    reference = await cluster.push("door/app:1", images.image("door", layers=2, size=300_000))
    await holder.ctr_pull(reference)
    await cluster.registry.stop()
    try:
        for node in others:
            await pulled(node, reference)
    finally:
        await cluster.registry.start()
    path = f"/v2/door/app/manifests/1?ns={addresses.REGISTRY}"
    pod = await cluster.get_json(
        "pod", await cluster.spegel_pod(holder), f"--namespace={NAMESPACE}"
    )
    for host, port, status in (
        ("127.0.0.1", 30020, 403),  # the runtime's port on the node, without the token
        (pod["status"]["podIP"], 5002, 403),  # the same as Pods reach it
        (pod["status"]["podIP"], 5000, 401),  # the port of the other nodes, without a proof
    ):
        answer = await fetch(holder.namespace, host, port, path, "GET", {}, 5.0)
        assert answer.status == status, (host, port, answer)
    with pytest.raises(OSError, match=r"refused|timed out"):
        await fetch(others[0].namespace, holder.address, 30020, path, "GET", {}, 5.0)
    told = json.loads(await cluster.exec_in_spegel(holder, "spegel-py", "doctor", "--json"))
    levels = {one["check"]: one["level"] for one in told["findings"]}
    assert levels["runtime_token"] == levels["runtime_addr"] == "ok", told


async def test_a_node_without_a_pod_pulls_through_the_node_port(cluster: Cluster) -> None:
    """A node that the release leaves keeps its hosts.toml, and any other node's registry answers
    it.
    """
    *chosen, left = cluster.nodes
    await cluster.install(AT_ONCE)
    await cluster.kubectl("label", "nodes", *(node.name for node in chosen), "spegel=yes")
    await cluster.install({"nodeSelector": {"spegel": "yes"}} | AT_ONCE)
    reference = await cluster.push("left/app:1", images.image("left", layers=2, size=300_000))
    await chosen[0].ctr_pull(reference)
    await cluster.registry.stop()
    try:
        await pulled(left, reference)
    finally:
        await cluster.registry.start()
