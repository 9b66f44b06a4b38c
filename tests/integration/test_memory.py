"""What pulls take of a node's memory, with a real containerd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from spegel_py.oci.build import Image, image
from tests.integration.cluster import found, start_cluster
from tests.support.images import random_layer
from tests.support.lab import Node
from tests.support.processes import until

MOST = 60_000_000
"""Bytes by which a node may exceed what it has when idle."""
IMAGES, LAYERS, SIZE = 3, 20, 3_000_000
"""Layers small enough to be verified before their first byte is passed on, so that they are
held.
"""


async def test_pulls_of_small_layers_take_bounded_memory() -> None:
    """Three images of many small layers at once, and again: each pull took 150 MB that were not
    given back.
    """
    async with start_cluster(2) as lab:
        seed, puller = lab.nodes
        images = {lab.name(f"test/small-{number}:1"): _image(number) for number in range(IMAGES)}
        for reference, one in images.items():
            await lab.registry.push(reference, one)
            await seed.cri.pull(reference)
            await found(puller, reference, one.blobs[1:])
        with _memory_of(puller) as grown:
            for _ in range(2):
                await asyncio.gather(*map(puller.cri.pull, images))
                await _forget(puller)
        assert grown() < MOST


def _image(number: int) -> Image:
    return image([random_layer(f"memory/{number}/{layer}", SIZE) for layer in range(LAYERS)])


@contextmanager
def _memory_of(node: Node) -> Iterator[Callable[[], int]]:
    """Give a function that returns by how many bytes a node's memory grew at most while the block
    lasted.
    """
    assert node.spegel is not None
    process = psutil.Process(node.spegel.pid)
    idle = most = process.memory_info().rss

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: most - idle
    finally:
        watching.cancel()


async def _forget(node: Node) -> None:
    for each in await node.cri.images():
        await node.cri.remove(each.id)

    async def is_empty() -> bool:
        return not await node.daemon.content()

    await until(is_empty, deadline=30.0, pause=0.1)
