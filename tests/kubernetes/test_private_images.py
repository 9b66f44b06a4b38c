"""Private images on a cluster that guards them: one namespace has the pull secret, another not."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.kubernetes import addresses
from tests.kubernetes.cluster import NAMESPACE, Cluster
from tests.kubernetes.node import Node
from tests.kubernetes.test_install import PRIVATE, SECONDARY, private_registry, pull_secret
from tests.support import images
from tests.support.lab import Registry

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),  # the first test builds Kubernetes, which takes minutes
]

WITH, WITHOUT = "with-secret", "without-secret"
"""The namespaces."""

VERIFIES = {
    "featureGates": {"KubeletEnsureSecretPulledImages": True},
    "imagePullCredentialsVerificationPolicy": "AlwaysVerify",
}
"""Settings with which a kubelet lets no Pod use an image that its own credentials do not pull."""

REFUSED = 8.0
"""Seconds after which a Pod that does not run is refused; one that runs takes 1 to 3 s."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registry(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Registry]:
    """The private registry, whose nodes have the chart with guarded images."""
    private = private_registry(cluster, tmp_path_factory.mktemp("registry"))
    await private.start()
    for node in cluster.nodes:
        folder = node.certs / SECONDARY
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "http://{PRIVATE}"\n')
    for name in (NAMESPACE, WITH, WITHOUT):
        await cluster.kubectl("create", "namespace", name)
    await cluster.apply(pull_secret(private, "pull", WITH))
    await cluster.install(
        {
            "runtime": {"token": True, "port": 5002},
            "service": {"registry": {"nodePort": 0}},
            "spegel": {
                "mirroredRegistries": [f"http://{addresses.REGISTRY}", f"http://{PRIVATE}"],
                "privateImages": "guard",
                "publicRegistries": [addresses.REGISTRY],
                "peerProofs": "require",
            },
        }
    )
    yield private
    await private.process.end(signal.SIGKILL)


async def start(
    cluster: Cluster, name: str, node: Node, image: str, namespace: str, deadline: float = 60.0
) -> None:
    """Run a Pod that pulls always, with the secret of its namespace, and delete it again."""
    secret = "pull" if namespace == WITH else None
    try:
        seconds = await cluster.run_pod(
            name,
            node,
            image,
            pull_policy="Always",
            pull_secret=secret,
            namespace=namespace,
            deadline=deadline,
        )
        print(f"{name} on {node.name}: {seconds:.1f} s")
    finally:
        await cluster.delete_pod(name, namespace=namespace)


async def refuse(cluster: Cluster, name: str, node: Node, image: str, namespace: str) -> None:
    """Fail if the Pod runs."""
    with pytest.raises(AssertionError, match="Failed to pull image"):
        await start(cluster, name, node, image, namespace, REFUSED)


async def test_only_a_pod_with_the_secret_runs(cluster: Cluster, registry: Registry) -> None:
    """On each containerd. A peer gives all of the image, and the registry is asked by one HEAD."""
    first, *others = cluster.nodes
    reference = f"{PRIVATE}/private/app:1"
    await registry.push(reference, images.image("guarded", layers=2, is_runnable=True))
    await start(cluster, "first", first, reference, WITH)
    for node in others:
        await refuse(cluster, "refused", node, reference, WITHOUT)
        registry.forget()
        await start(cluster, "allowed", node, reference, WITH)
        # A kubelet that has not read the secret yet pulls without it, and the registry refuses.
        asked = [(one.method, one.path) for one in registry.requests() if one.status == 200]
        assert asked.count(("HEAD", "/v2/private/app/manifests/1")) == 1
        assert not [path for method, path in asked if method == "GET" and path != "/v2/"]
        await refuse(cluster, "refused", node, reference, WITHOUT)


async def test_while_the_registry_is_away(cluster: Cluster, registry: Registry) -> None:
    """A node answers credentials that the registry has allowed to this node, and no others."""
    first, second, third = cluster.nodes
    reference = f"{PRIVATE}/private/away:1"
    await registry.push(reference, images.image("away", is_runnable=True))
    await start(cluster, "first", first, reference, WITH)
    await start(cluster, "second", second, reference, WITH)
    await registry.process.end(signal.SIGKILL)
    try:
        await start(cluster, "again", second, reference, WITH)
        await refuse(cluster, "without", second, reference, WITHOUT)
        await refuse(cluster, "third", third, reference, WITH)
    finally:
        await registry.start()


async def test_the_kubelets_own_check_means_something(cluster: Cluster, registry: Registry) -> None:
    """The image is on the node, and the Pod pulls only if it is not: the kubelet pulls with the
    Pod's own credentials, and the mirror does not answer in the registry's place."""
    _, node, _ = cluster.nodes
    reference = f"{PRIVATE}/private/checked:1"
    await registry.push(reference, images.image("checked", is_runnable=True))
    await node.restart_kubelet(VERIFIES)
    try:
        await cluster.until_ready(node)
        await cluster.run_pod(
            "checked", node, reference, pull_secret="pull", namespace=WITH, deadline=60.0
        )
        with pytest.raises(AssertionError, match="not Ready"):
            await cluster.run_pod("checked", node, reference, namespace=WITHOUT, deadline=REFUSED)
        for namespace in (WITH, WITHOUT):
            await cluster.delete_pod("checked", namespace=namespace)
    finally:
        await node.restart_kubelet({})
