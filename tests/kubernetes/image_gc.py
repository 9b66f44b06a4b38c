"""The kubelet's image garbage collection beside replicas: `python -m tests.kubernetes.image_gc`.

Three nodes of a real Kubernetes, each with another containerd, pre-heat an image, and pods run it
and another image. Then both are unused, and the kubelets start again with a disk that counts as
full. A kubelet looks at its start, when it knows no disk yet, and then every five minutes. So this
takes about eight minutes, and is no part of `make test-kubernetes`. It needs root and Go.
"""

from __future__ import annotations

import asyncio
import sys
import time

from spegel_py.oci.build import Image
from tests.kubernetes import addresses
from tests.kubernetes.built import reason_to_skip
from tests.kubernetes.cluster import NAMESPACE, Cluster, start_cluster
from tests.kubernetes.node import Node
from tests.support import images
from tests.support.processes import end_in_good_order, until

FULL_DISK = {
    # The nodes share the machine's disk, which is fuller than one percent.
    "imageGCHighThresholdPercent": 1,
    "imageGCLowThresholdPercent": 0,
    "imageMinimumGCAge": "0s",
}
PATIENCE = 420.0
"""Seconds for a collection: two looks of the kubelet, and its work."""


async def main() -> int:
    """Print what a collection leaves; return the exit status."""
    end_in_good_order()
    if (reason := reason_to_skip()) is not None:
        print(reason)
        return 1
    async with start_cluster() as cluster:
        await cluster.kubectl("create", "namespace", NAMESPACE)
        await cluster.install({"spegel": {"mirroredRegistries": [f"http://{addresses.REGISTRY}"]}})
        kept = images.image("kept-by-us", layers=3, size=2_000_000, is_runnable=True)
        plain = images.image("kept-by-nobody", layers=3, size=2_000_000, is_runnable=True)
        kept_name = await cluster.push("gc/kept:1", kept)
        plain_name = await cluster.push("gc/plain:1", plain)
        arguments = (kept_name, "--nodes", "all", "--depth", "unpacked", "--wait")
        await cluster.exec_in_spegel(cluster.nodes[0], "spegel-py", "preheat", *arguments)
        for reference in (kept_name, plain_name):
            await _run_everywhere(cluster, "before", reference)
        began = time.monotonic()
        for node in cluster.nodes:
            await node.restart_kubelet(FULL_DISK)
        await asyncio.gather(*(_collected(node, (kept_name, plain_name)) for node in cluster.nodes))
        print(f"the kubelets removed both images within {time.monotonic() - began:.0f} s")
        problems = [text for node in cluster.nodes for text in await _left(node, kept, plain)]
        cluster.registry.forget()
        await _run_everywhere(cluster, "after", kept_name)
        asked = [one.path for one in cluster.registry.requests("GET") if "/gc/kept/" in one.path]
        problems += [f"the registry was asked for {path}" for path in asked]
    print("\n".join(problems) or "every node kept the pre-heated image, and nothing of the other")
    return 1 if problems else 0


async def _run_everywhere(cluster: Cluster, when: str, reference: str) -> None:
    for node in cluster.nodes:
        name = f"{when}-{node.name}-{reference.rpartition('/')[2].partition(':')[0]}"
        seconds = await cluster.run_pod(name, node, reference)
        print(f"{node.name} (containerd {node.containerd}): {name} runs after {seconds:.2f} s")
        await cluster.delete_pod(name)


async def _collected(node: Node, references: tuple[str, ...]) -> None:
    async def are_gone() -> bool:
        return not [one for one in references if await node.cri().status(one) is not None]

    await until(are_gone, deadline=PATIENCE, pause=1.0)


async def _left(node: Node, kept: Image, plain: Image) -> list[str]:
    """Return what is wrong with a node's content after the collection, a sentence each."""
    content = await node.ctr("content", "ls")
    missing = [blob for blob in kept.blobs if str(blob.digest) not in content]
    found = [f"{node.name} has lost {blob.digest} of the pre-heated image" for blob in missing]
    shared = {blob.digest for blob in kept.blobs}
    others = [blob for blob in plain.blobs if blob.digest not in shared]
    left = [blob for blob in others if str(blob.digest) in content]
    return found + [f"{node.name} still has {blob.digest} of the other image" for blob in left]


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
