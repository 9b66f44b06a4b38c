"""The chart with default values on a fresh cluster, and pods that run with the registry stopped."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spegel_py.oci.rootfs import layers_of
from tests.kubernetes import addresses
from tests.kubernetes.cluster import NAMESPACE, Cluster
from tests.kubernetes.node import Node
from tests.support import images
from tests.support.lab import Registry
from tests.support.processes import CommandFailed, until

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]

APP = images.image("kubernetes-app", layers=3, size=1 << 20, is_runnable=True)
REPOSITORY = "test/app"

FIRST_PULL = 5.0
"""Seconds for the first pull of an image that no node has. It takes about 1 s. A node that waits
for its own download takes 6.5 s for each blob.
"""


PRIVATE = addresses.REGISTRY.replace(":5000", ":5001")
"""A second registry, which wants a user and a password."""

SECONDARY = "10.97.0.2_5001_"
"""containerd's other name for the private registry's folder."""


def private_registry(cluster: Cluster, folder: Path) -> Registry:
    """Return the private registry, not started, with its files below the folder."""
    return Registry(
        folder=folder / "private",
        namespace=cluster.registry.namespace,
        address=PRIVATE,
        is_private=True,
    )


def pull_secret(private: Registry, name: str, namespace: str) -> dict[str, Any]:
    """Return a Secret with the credentials of the private registry."""
    pair = base64.b64encode(f"{private.user}:{private.password}".encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": json.dumps({"auths": {PRIVATE: {"auth": pair}}})},
    }


async def test_the_chart_installs_on_a_fresh_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """Every node gets a ready pod, whichever containerd it has, and though that is new."""
    for node in cluster.nodes:
        folder = node.certs / SECONDARY
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "http://{PRIVATE}"\n')
    await cluster.kubectl("create", "namespace", NAMESPACE)
    await cluster.apply(pull_secret(private_registry(cluster, tmp_path), "registries", NAMESPACE))
    seconds = await cluster.install(
        {
            "spegel": {
                "mirroredRegistries": [f"http://{addresses.REGISTRY}", f"http://{PRIVATE}"],
                "registryCredentialsSecretName": "registries",
            }
        }
    )
    print(f"installed after {seconds:.1f} s")
    pods = await cluster.get_json("pods", f"--namespace={NAMESPACE}")
    assert {pod["spec"]["nodeName"] for pod in pods["items"]} == {
        node.name for node in cluster.nodes
    }
    for pod in pods["items"]:
        assert [each["ready"] for each in pod["status"]["containerStatuses"]] == [True]
        assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]


async def test_a_pod_runs_with_the_registry_away_once_a_node_has_its_image(
    cluster: Cluster,
) -> None:
    """The first node pulls each blob from the registry once; the others get it from a peer.

    They pull by tag and by digest.
    """
    first, *others = cluster.nodes
    tag = await cluster.push(f"{REPOSITORY}:1", APP)
    digest = f"{cluster.name(REPOSITORY)}@{APP.root.digest}"

    seconds = await cluster.run_pod("first", first, tag)
    print(f"{first.name}: {seconds:.1f} s from the registry")
    assert seconds < FIRST_PULL
    await until_fetched(cluster, Counter(str(blob.digest) for blob in APP.blobs[1:]))
    await cluster.registry.stop()
    try:
        for node in others:
            print(
                f"{node.name}: {await cluster.run_pod(f'tag-{node.name}', node, tag):.1f} s from "
                "a peer"
            )
            seconds = await cluster.run_pod(f"digest-{node.name}", node, digest)
            print(f"{node.name}: {seconds:.1f} s by digest")
        for node in others:
            why = await cluster.exec_in_spegel(node, "spegel-py", "why", "--requests", REPOSITORY)
            assert "hit, peer" in why, why
        why = await cluster.exec_in_spegel(first, "spegel-py", "why", "--requests", REPOSITORY)
        assert "hit" not in why, why
    finally:
        await cluster.registry.start()
    for name in (
        "first",
        *(f"{kind}-{node.name}" for kind in ("tag", "digest") for node in others),
    ):
        began = time.monotonic()
        await cluster.delete_pod(name)
        assert time.monotonic() - began < 10


async def test_no_nodes_first_pull_waits_for_itself(cluster: Cluster) -> None:
    """With default values containerd asks another node's registry before upstream, and is not kept
    there.
    """
    for node in cluster.nodes:
        app = images.image(f"first-{node.name}", layers=10, size=2_000_000)
        reference = await cluster.push(f"first/{node.name}:1", app)
        seconds = await node.ctr_pull(reference)
        print(f"{node!r}: first pull {seconds:.2f} s")
        assert seconds < FIRST_PULL
        await until_fetched(cluster, Counter(str(blob.digest) for blob in app.blobs[1:]))
    for node in cluster.nodes:
        assert await cluster.metric(node, "spegel_peer_attempts_total", outcome="stalled") == 0


async def test_three_nodes_at_once_fetch_one_copy(cluster: Cluster) -> None:
    """Their Pods start at the same moment; the registry sends each blob to one of them."""
    app = images.image("at-once", layers=3, size=3_000_000, is_runnable=True)
    reference = await cluster.push("at-once/app:1", app)
    async with cluster.registry.namespace.throttled("100mbit", burst="64kbit"):
        seconds = await asyncio.gather(
            *(cluster.run_pod(f"at-once-{node.name}", node, reference) for node in cluster.nodes)
        )
    print(f"three nodes at once: {max(seconds):.1f} s")
    (_, *layers) = [
        str(blob.digest) for blob in app.blobs if len(blob.data) > 500_000
    ]  # all nodes have the first
    assert len(layers) == 3
    assert [fetched(cluster)[layer] for layer in layers] == [1, 1, 1]


async def test_a_pull_policy_of_always_is_answered_with_the_registry_away(cluster: Cluster) -> None:
    """The kubelet resolves the tag with each start of a Pod, also where the image is there
    already.
    """
    first, second, _ = cluster.nodes
    reference = await cluster.push("always/app:1", images.image("always", is_runnable=True))
    await cluster.run_pod("always-first", first, reference, pull_policy="Always")
    await cluster.registry.stop()
    try:
        for name in ("always-second", "always-again"):
            await cluster.run_pod(name, second, reference, pull_policy="Always")
            assert any(
                event.startswith("Pulled: Successfully pulled")
                for event in await cluster.events(name)
            )
    finally:
        await cluster.registry.start()


async def test_a_private_registry_is_pulled_with_the_pods_secret(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The mirror is asked without the secret, and the registry with it; later the image comes from
    a peer.
    """
    first, second, _ = cluster.nodes
    private = private_registry(cluster, tmp_path)
    await private.start()
    try:
        reference = f"{PRIVATE}/private/app:1"
        await private.push(reference, images.image("private", is_runnable=True))
        await cluster.apply(pull_secret(private, "pull", "default"))
        seconds = await cluster.run_pod("private-first", first, reference, pull_secret="pull")
        print(f"private image: {seconds:.1f} s")
    finally:
        await private.process.end(
            signal.SIGKILL
        )  # it would wait for 10 s until the nodes' connections are over
    seconds = await cluster.run_pod("private-second", second, reference, pull_secret="pull")
    print(f"private image from a peer: {seconds:.1f} s")


async def test_a_pre_heated_image_outlives_the_kubelets_copies(cluster: Cluster) -> None:
    """On each version of containerd a pod starts from it without a byte from the registry.

    The kubelet's `RemoveImage` leaves it, and the next pod starts from it too.
    """
    first = cluster.nodes[0]
    app = images.image("preheated", layers=3, size=2_000_000, is_runnable=True)
    reference = await cluster.push("preheated/app:1", app)
    arguments = (reference, "--nodes", "all", "--depth", "unpacked", "--wait")
    print(await cluster.exec_in_spegel(first, "spegel-py", "preheat", *arguments))
    cluster.registry.forget()
    unpacked = {str(layer.chain) for layer in layers_of(app.root.data, app.blobs[1].data)}
    for life in ("first", "second"):
        for node in cluster.nodes:
            assert await node.cri().status(reference) is None
            name = f"preheated-{life}-{node.name}"
            seconds = await cluster.run_pod(name, node, reference)
            print(f"{node.name}: {seconds:.2f} s from a pre-heated image")
            await cluster.delete_pod(name)
            await node.cri().remove(reference)
            assert unpacked <= set((await node.ctr("snapshots", "ls")).split())
    paths = [one.path for one in cluster.registry.requests("GET")]
    assert not [path for path in paths if "/preheated/app/" in path]


async def test_a_private_image_that_a_node_keeps_needs_the_pull_secret(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The node has it with its own credentials, by digest, so no mirror answers for the tag."""
    node = cluster.nodes[1]
    private = private_registry(cluster, tmp_path)
    await private.start()
    try:
        one = images.image("kept", is_runnable=True)
        reference = f"{PRIVATE}/private/kept:1"
        await private.push(reference, one)
        by_digest = f"{PRIVATE}/private/kept@{one.root.digest}"
        arguments = (by_digest, "--depth", "unpacked", "--wait")
        await cluster.exec_in_spegel(node, "spegel-py", "preheat", *arguments)
        with pytest.raises(AssertionError, match="Failed to pull image"):
            await cluster.run_pod("kept-without", node, reference, deadline=6.0)
        await cluster.delete_pod("kept-without")
        private.forget()
        await cluster.run_pod("kept-with", node, reference, pull_secret="pull")
        assert not [one for one in private.requests("GET") if "/blobs/" in one.path]
    finally:
        await private.process.end(signal.SIGKILL)


async def test_a_new_node_starts_twenty_pods_of_twenty_images_at_once(cluster: Cluster) -> None:
    """A node joins with empty disks while Pods wait for it; all of them run, beside spegel-py's
    own.
    """
    holder, _, node = cluster.nodes
    references = []
    for number in range(20):
        app = images.image(f"twenty-{number}", layers=2, size=300_000, is_runnable=True)
        references.append(await cluster.push(f"twenty/app{number}:1", app))
    await asyncio.gather(*(holder.ctr_pull(reference) for reference in references))
    await node.power_off()
    await node.forget()
    await node.start()
    await cluster.until_ready(node)
    seconds = await asyncio.gather(
        *(
            cluster.run_pod(f"twenty-{number}", node, each, deadline=120.0)
            for number, each in enumerate(references)
        )
    )
    print(f"twenty Pods on a new node: {max(seconds):.1f} s")
    await cluster.rollout()


async def test_the_pod_may_do_what_the_page_says(cluster: Cluster) -> None:
    """docs/reference/security.md: no capability, no token, nothing to write to but its data;
    containerd's folder shows more.
    """
    node = cluster.nodes[0]
    status = Path(f"/proc/{node.spegel_pid()}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert await writes(cluster, node, "/var/lib/spegel")
    for folder in (
        "/",
        "/tmp",
        "/etc",
        "/run/containerd",
        "/var/lib/containerd/io.containerd.content.v1.content",
    ):
        assert not await writes(cluster, node, folder), folder
    for path in ("/var/run/secrets/kubernetes.io", "/etc/containerd"):
        with pytest.raises(CommandFailed, match="No such file"):
            await cluster.exec_in_spegel(node, "ls", path)


async def writes(cluster: Cluster, node: Node, folder: str) -> bool:
    """Return True if the pod can make a file in a folder."""
    try:
        await cluster.exec_in_spegel(node, "sh", "-c", f"touch {folder}/probe && rm {folder}/probe")
    except CommandFailed as error:
        if "Read-only file system" in str(error):
            return False
        raise
    return True


async def until_fetched(cluster: Cluster, wanted: Counter[str]) -> None:
    """Wait until the registry's log says that it sent these blobs, each so often; the lines come
    after the bytes.
    """

    async def is_written() -> bool:
        return fetched(cluster) == wanted

    try:
        await until(is_written, deadline=5.0)
    except TimeoutError:
        assert fetched(cluster) == wanted


def fetched(cluster: Cluster) -> Counter[str]:
    """Return the digests of all blobs that the registry has sent since the last push, with how
    often.
    """
    return Counter(
        request.path.rpartition("/")[2]
        for request in cluster.registry.requests("GET")
        if "/blobs/" in request.path and request.status == 200
    )


async def test_an_uninstalled_release_leaves_no_replica(cluster: Cluster) -> None:
    """Neither a lease nor content that nothing else has; the first image was pre-heated above."""
    print(f"uninstalled after {await cluster.uninstall():.1f} s")
    app = images.image("preheated", layers=3, size=2_000_000, is_runnable=True)

    async def is_clean(node: Node) -> bool:
        leases = await node.ctr("leases", "ls", "-q")
        content = (await node.ctr("content", "ls", "-q")).split()
        return "spegel-py/" not in leases and str(app.root.digest) not in content

    for node in cluster.nodes:
        await until(lambda node=node: is_clean(node), deadline=30.0, pause=0.2)  # type: ignore[misc]
