"""Images pulled and deleted continuously on every node. Each node advertises exactly its content,
without leaks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import grpc.aio
import psutil
import pytest

from spegel_py.oci import build
from spegel_py.oci.build import Image
from tests.integration.cluster import start_cluster, state
from tests.integration.observer import Observer, keys, observing
from tests.support.images import random_layer
from tests.support.lab import Node, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

CYCLES = 200
WORKERS = 2
"""Pulls and deletions at the same time on one node."""

SPARE = 4
"""Threads, descriptors and tasks that a node may have gained at the end: an idle pool or
connection.
"""


def make(number: int) -> Image:
    """Return an image with three layers: shared by all images, shared by half, and its own."""
    layers = ("all", f"half/{number % 2}", f"own/{number}")
    return build.image([random_layer(f"churn/{seed}", 20_000) for seed in layers])


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources of a node's process that may leak."""

    descriptors: int
    threads: int
    tasks: int

    def fits(self, before: Usage) -> bool:
        """Return True if no resource grew by more than the spare."""
        return (
            self.descriptors <= before.descriptors + SPARE
            and self.threads <= before.threads + SPARE
            and self.tasks <= before.tasks + SPARE
        )


async def usage(node: Node) -> Usage:
    assert node.spegel
    told = await state(node)
    return Usage(told["descriptors"], psutil.Process(node.spegel.pid).num_threads(), told["tasks"])


async def churn(nodes: Sequence[Node], references: Sequence[str], cycles: int) -> None:
    """Pull and delete on all nodes, `cycles` times in all. The last pull of each worker stays."""
    left = iter(range(cycles))

    async def work(node: Node, own: Sequence[str], rng: random.Random) -> None:
        for _ in left:
            reference = rng.choice(own)
            await pull(node, reference)
            await node.cri.remove(reference)
        await pull(node, own[0])

    async with asyncio.TaskGroup() as workers:
        for number, node in enumerate(nodes):
            for worker in range(
                WORKERS
            ):  # workers of one node never share an image: containerd would see a race
                rng = random.Random(f"{number}/{worker}")
                workers.create_task(work(node, references[worker::WORKERS], rng))


async def pull(node: Node, reference: str) -> None:
    """Pull like a kubelet, which retries when the collector took a snapshot that was in use."""
    for _ in range(5):
        try:
            await node.cri.pull(reference)
        except grpc.aio.AioRpcError as error:
            if "snapshot" not in (error.details() or ""):
                raise
        else:
            return
    raise AssertionError(f"{node} could not unpack {reference}")


async def held(node: Node) -> set[str]:
    """Return the content in a node's containerd: all digests, and the names with a tag."""
    names = (await node.daemon.ctr("images", "ls", "-q")).split()
    return await node.daemon.content() | {name for name in names if "@" not in name and "/" in name}


async def agrees(observer: Observer, node: Node, universe: set[str]) -> bool:
    """Return True if a node advertises exactly its content."""
    here = await held(node)
    tags = sum("/" in key for key in here)
    return await observer.advertised(node, universe | here) == here and (await state(node))[
        "advertised"
    ] == {
        "tags": tags,
        "digests": len(here) - tags,
    }


async def is_small(node: Node, before: Usage) -> bool:
    return (await usage(node)).fits(before)


async def test_after_200_pulls_and_deletions_every_node_advertises_what_it_holds() -> None:
    """With several pulls at once on three nodes no event is lost or invented, and nothing leaks."""
    async with start_cluster(3) as lab, observing(lab) as observer:
        apps = {lab.name(f"test/churn:{number}"): make(number) for number in range(10)}
        for reference, app in apps.items():
            await lab.registry.push(reference, app)
        universe = set().union(*(keys(reference, app) for reference, app in apps.items()))
        await churn(lab.nodes, list(apps), 30)
        before = {node: await usage(node) for node in lab.nodes}
        await churn(lab.nodes, list(apps), CYCLES)
        for node in lab.nodes:
            await until(partial(agrees, observer, node, universe), deadline=30, pause=0.2)
            assert len(await held(node) & apps.keys()) == WORKERS
        for node in lab.nodes:
            await until(partial(is_small, node, before[node]), deadline=60, pause=0.5)
