"""A containerd that is away, dies or starts late: the node survives and announces the changes
later.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.integration.cluster import (
    blob_path,
    found,
    heal,
    joined,
    manifest_path,
    publish,
    registry_away,
    start_cluster,
)
from tests.integration.observer import keys, observing
from tests.support.images import image
from tests.support.lab import Node, start_lab

pytestmark = [pytest.mark.root, pytest.mark.containerd]


@asynccontextmanager
async def blind(node: Node, number: int) -> AsyncIterator[None]:
    """Restart containerd while spegel-py is stopped, so that it cannot see the block's changes."""
    assert node.spegel
    node.write_hosts_toml(mirror=None)  # a stopped mirror would delay containerd
    node.spegel.send(signal.SIGSTOP)
    try:
        await node.daemon.process.end(number)
        await node.daemon.start()
        yield
    finally:
        node.spegel.send(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
async def test_what_changed_while_the_node_was_blind_is_told_after_it(number: int) -> None:
    """Images pulled and removed around a restart, without an event, are announced and withdrawn."""
    kept, gone, new = (image(f"blind/{name}") for name in ("kept", "gone", "new"))
    async with start_cluster(2) as lab:
        holder = lab.nodes[0]
        names = [lab.name(f"test/blind:{name}") for name in ("kept", "gone", "new")]
        await publish(lab, names[0], kept, holder)
        await publish(lab, names[1], gone, holder)
        await lab.registry.push(names[2], new)
        async with blind(holder, number):
            await holder.cri.pull(names[2])
            await holder.cri.remove(names[1])
        await heal(lab)  # peers gave up a node that was stopped
        async with observing(lab) as observer:
            await observer.sees(holder, keys(names[0], kept) | keys(names[2], new), deadline=20)
            await observer.misses(holder, keys(names[1], gone), deadline=20)


async def test_a_node_starts_without_containerd_and_finds_it_later() -> None:
    """Without a socket a node is live and serves blobs from the disk. Later its images are
    announced.
    """
    app, later = image("before"), image("later")
    async with start_lab(nodes=2) as lab:
        reference, second = lab.name("test/app:before"), lab.name("test/app:later")
        late, other = lab.nodes
        await lab.registry.push(reference, app)
        await late.cri.pull(reference)
        await late.daemon.stop()
        await asyncio.gather(*(node.start_spegel() for node in lab.nodes))
        await joined(*lab.nodes)
        assert (await late.get("/livez")).status == 200
        answer = await late.get("/readyz")
        assert answer.status == 500
        assert b"containerd does not answer at" in answer.body
        assert b"this node shares nothing until then" in answer.body
        for path in (manifest_path(app.root), *map(blob_path, app.blobs[1:])):
            assert (await late.get(path)).status == 200
        assert (await late.get(manifest_path(reference))).status == 404
        await late.daemon.start()
        async with registry_away(lab):
            await found(other, reference, app.blobs[1:])
        assert (await late.get("/readyz")).status == 200
        await heal(lab)
        await publish(lab, second, later, late)


async def test_a_node_starts_before_containerd_ever_ran() -> None:
    """On a new machine, without socket and content, a node is live. Later pulls are announced."""
    app = image("first")
    async with start_lab(nodes=2) as lab:
        reference = lab.name("test/app:first")
        late, other = lab.nodes
        await late.daemon.stop()
        late.daemon.forget()
        await asyncio.gather(*(node.start_spegel() for node in lab.nodes))
        await joined(*lab.nodes)
        assert (await late.get(manifest_path(app.root))).status == 404
        await late.daemon.start()
        await publish(lab, reference, app, late)
        assert (await other.get(manifest_path(reference))).status == 200
