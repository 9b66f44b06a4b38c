"""Pulls on every node, again and again, while the pods of spegel-py are replaced and the registry
is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.kubernetes.cluster import NAMESPACE, RELEASE, Cluster
from tests.kubernetes.node import Node
from tests.support import images
from tests.support.processes import CommandFailed, until


@dataclass(slots=True)
class Pulls:
    """Pulls of one image, again and again, on one node, and how they ended."""

    node: Node
    reference: str
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def begin(self) -> None:
        """Pull once, as soon as the others have told of the image."""
        await self.node.forget_image(self.reference)
        await pulled(self.node, self.reference)

    async def go_on(self) -> None:
        """Pull, remove and pull again, until cancelled."""
        while True:
            await self.node.forget_image(self.reference)
            try:
                self.seconds.append(await self.node.ctr_pull(self.reference))
            except CommandFailed as error:
                self.failures.append(str(error).strip().rpartition("\n")[2][-300:])


@asynccontextmanager
async def pulling(cluster: Cluster) -> AsyncIterator[list[Pulls]]:
    """While the block lasts, every node pulls an image that all others hold; the registry is
    away.
    """
    pulls = []
    for node in cluster.nodes:
        reference = await cluster.push(
            f"loop/{node.name}:1", images.image(f"loop-{node.name}", layers=3, size=300_000)
        )
        await asyncio.gather(*(other.ctr_pull(reference) for other in cluster.nodes))
        pulls.append(Pulls(node, reference))
    await cluster.registry.stop()
    try:
        await asyncio.gather(*(each.begin() for each in pulls))
        tasks = [asyncio.create_task(each.go_on()) for each in pulls]
        try:
            yield pulls
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    finally:
        await cluster.registry.start()
        for each in pulls:
            slowest = max(each.seconds, default=0.0)
            print(
                f"{each.node!r}: {len(each.seconds)} pulls, at most {slowest:.1f} s, failed: "
                f"{each.failures[:5]}"
            )


async def pulled(node: Node, reference: str, *, deadline: float = 30.0) -> None:
    """Pull until it succeeds, as a kubelet does: the others may not have heard of a new image
    yet.
    """

    async def succeeds() -> bool:
        try:
            await node.ctr_pull(reference)
        except AssertionError:
            return False
        return True

    await until(succeeds, deadline=deadline, pause=0.2)


async def restart(cluster: Cluster) -> None:
    """Replace the pods of all nodes, one after the other."""
    await cluster.kubectl(f"--namespace={NAMESPACE}", "rollout", "restart", f"daemonset/{RELEASE}")
    await cluster.rollout()
