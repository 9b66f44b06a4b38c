"""A crowd pulls: one image that nobody has, by all nodes at once or one after the other."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio

from spegel_py.oci.build import Image
from tests.benchmarks.flash.mirrors import mirrors
from tests.benchmarks.flash.outcome import Outcome
from tests.benchmarks.flash.plan import ALONE, MEGABYTE, Case, Shape
from tests.integration.cluster import found
from tests.support import images
from tests.support.lab import Lab, Node

BURST = "256kb"
"""Bytes that a limited machine may send at once: as many as a packet may have before it is cut up
for the cable.
"""

_DEADLINE = 300.0
"""Seconds after which a pull counts as hung."""

_FOUND = 30.0
"""Seconds within which all find what one of them has pulled."""


async def play(lab: Lab, case: Case, candidate: str) -> Outcome:
    """Push a new image, let the crowd pull it, and take it away again."""
    nodes = lab.nodes[:1] if candidate == ALONE else lab.nodes[: case.nodes]
    reference, image = await _push(lab, case.shape)
    try:
        async with mirrors(candidate, nodes) as running:
            await _warm_up(lab, case.shape, nodes)
            await running.at_rest()
            crowd = nodes
            if case.held and candidate != ALONE:
                crowd = await _without_holder(nodes, reference, is_mirrored=len(running) > 0)
            async with _limited(lab, case, nodes):
                before = running.cpu()
                lab.registry.forget()
                began = time.monotonic()
                pulls = await asyncio.gather(
                    *(
                        _pull(node, reference, number * case.stagger)
                        for number, node in enumerate(crowd)
                    )
                )
                return _outcome(
                    lab, image, [*pulls], time.monotonic() - began, running.cpu() - before
                )
    finally:
        await asyncio.gather(*(node.cri.remove(reference) for node in nodes))


async def _push(lab: Lab, shape: Shape) -> tuple[str, Image]:
    """Push an image that nobody has seen."""
    seed = secrets.token_hex(8)
    image = await asyncio.to_thread(
        images.image, seed, layers=shape.layers, size=shape.megabytes * MEGABYTE
    )
    reference = lab.name(f"flash/app:{seed}")
    await lab.registry.push(reference, image)
    return reference, image


async def _warm_up(lab: Lab, shape: Shape, nodes: list[Node]) -> None:
    """Have all pull such an image without a limit: the first pull of a process's life takes what
    later ones find there, and what was written and removed just before is in the kernel's memory
    for each candidate.
    """
    reference, _ = await _push(lab, shape)
    await asyncio.gather(*(node.cri.pull(reference, deadline=_DEADLINE) for node in nodes))
    await asyncio.gather(*(node.cri.remove(reference) for node in nodes))


async def _without_holder(nodes: list[Node], reference: str, *, is_mirrored: bool) -> list[Node]:
    """Have the first node pull the image, and return the others once each finds it there, where
    there are mirrors.
    """
    holder, *others = nodes
    await holder.cri.pull(reference, deadline=_DEADLINE)
    if is_mirrored:
        for node in others:
            await found(node, reference, deadline=_FOUND)
    return others


async def _pull(node: Node, reference: str, delay: float) -> tuple[float, str]:
    """Pull as a kubelet does, once; returns the seconds and why it failed, if it did."""
    await asyncio.sleep(delay)
    began = time.monotonic()
    try:
        await node.cri.pull(reference, deadline=_DEADLINE)
    except grpc.aio.AioRpcError as failure:
        return time.monotonic() - began, f"{node.address}: {failure.details()}"
    return time.monotonic() - began, ""


def _outcome(
    lab: Lab, image: Image, pulls: list[tuple[float, str]], makespan: float, cpu: float
) -> Outcome:
    answered = [one for one in lab.registry.requests("GET") if one.status in (200, 206)]
    return Outcome(
        seconds=tuple(seconds for seconds, _ in pulls),
        failed=tuple(error for _, error in pulls if error),
        makespan=makespan,
        image=sum(len(blob.data) for blob in image.blobs if blob.digest != image.root.digest),
        upstream=sum(one.size for one in answered if "/blobs/" in one.path),
        manifests=dict(Counter(one.path for one in answered if "/manifests/" in one.path)),
        cpu=cpu,
    )


@asynccontextmanager
async def _limited(lab: Lab, case: Case, nodes: list[Node]) -> AsyncIterator[None]:
    """Limit what the registry and the nodes send."""
    limits = [
        (lab.registry.namespace, case.upstream),
        *((node.namespace, case.upload) for node in nodes),
    ]
    async with AsyncExitStack() as stack:
        for namespace, rate in limits:
            if rate:
                await stack.enter_async_context(namespace.throttled(rate, burst=BURST))
        yield
