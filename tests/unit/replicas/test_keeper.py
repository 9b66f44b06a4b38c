"""Keepers of several nodes, whose stores and network are in memory."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from spegel_py.errors import StoreUnavailable
from spegel_py.oci.build import Image
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.reference import replica_key
from spegel_py.replicas.disk_room import DiskRoom
from spegel_py.replicas.drain_state import DrainCause, DrainState
from spegel_py.replicas.keeper import ReplicaKeeper
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_rules import (
    LIFE,
    RENEWAL,
    RENEWAL_JITTER,
    SHORT_GRACE,
    ReplicaRules,
)
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_replicas import MemoryReplicas
from spegel_py.store.memory_store import MemoryStore
from tests.support.images import image
from tests.support.processes import until

NAME = "registry.example/team/app:1"
START = 1_790_000_000.0


class Time:
    """A clock of all nodes."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class KeptNode:
    """One node: what it stores is announced at once."""

    def __init__(
        self,
        name: str,
        network: MemoryNetwork,
        clock: Time,
        *,
        rules: ReplicaRules,
        filters: Filters = EVERYTHING,
        store: MemoryStore | None = None,
        content: Path | None = None,
    ) -> None:
        self.peer = Peer(name, "10.0.0.1", 5000)
        self.store = store or MemoryStore()
        self.replicas = MemoryReplicas(store=self.store, clock=clock)
        self.registry = CollectorRegistry()
        self.network = network
        self.router = network.join(self.peer)
        self.drain = DrainState()
        self.keeper = ReplicaKeeper(
            own=name,
            replicas=self.replicas,
            store=self.store,
            router=self.router,
            connected=lambda: [one.id for one in network.members],
            disk=DiskRoom(content=content, rules=rules),
            rules=rules,
            filters=filters,
            metrics=ReplicaMetrics(self.registry),
            rng=random.Random(7),
            drain=self.drain,
            clock=clock,
            monotonic=clock,
        )

    async def pull(self, one: Image, *names: str) -> None:
        for blob in one.blobs:
            self.store.add(blob.data)
        for name in names:
            self.store.tag(name, one.root.digest, pulled=START)
        await self.announce()

    async def collect(self, *names: str) -> None:
        for name in names:
            self.store.remove(name)
        self.store.collect()
        await self.announce()

    async def announce(self) -> None:
        before = set(self.network.members.get(self.peer, {}))
        await self.router.withdraw(before - self.store.keys)
        await self.router.advertise(self.store.keys)

    async def scan(self) -> list[str]:
        decisions = await self.keeper.scan()
        await self.announce()
        return [f"{one.action} {one.why}" for one in decisions]

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def cluster(count: int, **given: object) -> tuple[list[KeptNode], MemoryNetwork, Time]:
    network, clock = MemoryNetwork(), Time()
    rules = ReplicaRules(**given)  # type: ignore[arg-type]
    return (
        [KeptNode(f"n{number}", network, clock, rules=rules) for number in range(count)],
        network,
        clock,
    )


def keepers(nodes: list[KeptNode]) -> list[str]:
    return [node.peer.id for node in nodes if node.replicas.held()]


async def test_one_of_the_nodes_that_pulled_an_image_keeps_it() -> None:
    """After all runtimes removed it, its content is still here and its tag is still answered."""
    nodes, _, _ = cluster(4, floor=1)
    one = image()
    for node in nodes[:3]:
        await node.pull(one, NAME)
    for node in nodes:
        await node.scan()
    [keeper] = [node for node in nodes if node.replicas.held()]
    for node in nodes[:3]:
        await node.collect(NAME)
    for node in nodes:
        assert await node.scan() in ([], ["renew renewal"])  # the time of the last use
    assert keepers(nodes) == [keeper.peer.id]
    assert (await keeper.store.resolve(NAME)).digest == one.root.digest
    assert keeper.store.keys >= {str(blob.digest) for blob in one.blobs}
    assert [node for node in nodes if node.store.keys] == [keeper]


async def test_a_floor_above_the_number_of_holders_is_no_error() -> None:
    """All that pulled it keep it, and the rest counts as missing, at one node."""
    nodes, _, _ = cluster(3, floor=3)
    for node in nodes[:2]:
        await node.pull(image(), NAME)
    for node in nodes:
        await node.scan()
    assert len(keepers(nodes)) == 2
    for node in nodes:
        await node.scan()
    assert sum(node.value("spegel_replica_images_low") or 0 for node in nodes) == 1


async def test_the_next_node_keeps_an_image_after_a_death() -> None:
    """Not before the grace is over, since a restart takes no longer."""
    nodes, network, clock = cluster(3, floor=1)
    for node in nodes:
        await node.pull(image(), NAME)
    for node in nodes:
        await node.scan()
    [dead] = [node for node in nodes if node.replicas.held()]
    left = [node for node in nodes if node is not dead]
    for node in left:  # they see the replica
        await node.scan()
    network.leave(dead.peer)
    for node in left:
        assert await node.scan() == []
    clock.now += SHORT_GRACE - 1
    for node in left:
        assert await node.scan() == []
    clock.now += 2
    for node in left:
        await node.scan()
    assert len(keepers(left)) == 1


async def test_an_image_that_nobody_wants_any_more_is_released() -> None:
    """24 hours after the runtime had it last, also if the node started again meanwhile."""
    [node], network, clock = cluster(1, floor=1, keep=3600.0)
    await node.pull(image(), NAME)
    await node.scan()
    clock.now += 7200.0
    assert await node.scan() == []  # the runtime still has it
    await node.collect(NAME)
    assert await node.scan() == ["renew renewal"]
    rules = ReplicaRules(floor=1, keep=3600.0)
    again = KeptNode("n0", network, clock, rules=rules, store=node.store)
    await again.replicas.load()
    clock.now += 3000.0
    assert await again.scan() == []
    clock.now += 700.0
    assert await again.scan() == ["release unwanted"]
    assert not node.store.keys


async def test_a_replica_is_renewed_daily_and_follows_its_tags() -> None:
    [node], _, clock = cluster(1, floor=1)
    await node.pull(image(), NAME)
    await node.scan()
    [first] = node.replicas.held().values()
    assert first.expires == START + LIFE
    clock.now += RENEWAL - RENEWAL_JITTER - 1
    assert await node.scan() == []
    clock.now += 2 * RENEWAL_JITTER + 2
    assert await node.scan() == ["renew renewal"]
    [second] = node.replicas.held().values()
    assert second.expires == round(clock.now + LIFE)
    node.store.tag("registry.example/team/app:2", image().root.digest, pulled=START)
    assert await node.scan() == ["renew renewal"]
    [third] = node.replicas.held().values()
    assert set(third.names) == {NAME, "registry.example/team/app:2"}


async def test_switching_off_releases_everything() -> None:
    [node], network, clock = cluster(1, floor=1)
    await node.pull(image(), NAME)
    await node.scan()
    off = KeptNode("n0", network, clock, rules=ReplicaRules(), store=node.store)
    await off.replicas.load()
    assert await off.scan() == ["release off"]
    assert off.value("spegel_replica_released_total", why="off") == 1


@pytest.mark.parametrize(
    ("patterns", "filters", "kept"),
    [
        ((r"^registry\.example/team/",), EVERYTHING, True),
        ((r"^docker\.io/",), EVERYTHING, False),
        ((), Filters(patterns=[re.compile("/team/")]), False),
        ((), Filters(registries=["docker.io"]), False),
        ((r"app:1$",), Filters(registries=["registry.example"]), True),
    ],
)
async def test_only_selected_images_are_kept(
    patterns: tuple[str, ...], filters: Filters, kept: bool
) -> None:
    rules = ReplicaRules(floor=1, patterns=tuple(re.compile(one) for one in patterns))
    node = KeptNode("n0", MemoryNetwork(), Time(), rules=rules, filters=filters)
    await node.pull(image(), NAME)
    await node.scan()
    assert bool(node.replicas.held()) is kept


async def test_an_incomplete_image_is_not_kept() -> None:
    """As where containerd discards the layers that it has unpacked."""
    [node], _, _ = cluster(1, floor=1)
    one = image()
    await node.pull(one, NAME)
    node.store.remove(one.blobs[-1].digest)
    assert await node.scan() == []


async def test_each_platform_of_an_index_is_an_image() -> None:
    [node], _, _ = cluster(1, floor=1)
    many = image("many", platforms=("amd64", "arm64"))
    await node.pull(many, NAME)
    assert await node.scan() == ["hold floor"] * 2
    assert {replica_key(manifest) for manifest in node.replicas.held()} <= node.store.keys


async def test_the_metrics_say_what_replicas_cost() -> None:
    [node], _, _ = cluster(1, floor=1)
    one = image()
    await node.pull(one, NAME)
    await node.scan()
    size = sum(len(blob.data) for blob in one.blobs)
    assert node.value("spegel_replica_holds_total", reason="floor", outcome="kept") == 1
    assert node.value("spegel_replica_bytes", alone="false") == size
    assert node.value("spegel_replica_bytes", alone="true") == 0
    await node.collect(NAME)
    await node.scan()
    assert node.value("spegel_replica_bytes", alone="true") == size


async def test_an_outage_of_the_store_changes_nothing() -> None:
    [node], _, _ = cluster(1, floor=1)
    await node.pull(image(), NAME)
    node.store.leave()
    with pytest.raises(StoreUnavailable):
        await node.keeper.scan()
    node.store.come_back()
    assert await node.scan() == ["hold floor"]


async def test_a_content_folder_that_is_gone_counts_as_an_outage(tmp_path: Path) -> None:
    """The use of its file system decides, so nothing is decided without it. containerd's own folder
    is gone too; otherwise there would be no content yet.
    """
    rules, gone = ReplicaRules(floor=1), tmp_path / "gone" / "content"
    node = KeptNode("n0", MemoryNetwork(), Time(), rules=rules, content=gone)
    await node.pull(image(), NAME)
    with pytest.raises(StoreUnavailable, match="gone"):
        await node.scan()
    assert not node.replicas.held()


async def test_a_node_without_replicas_does_not_read_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replicas are off by default, so most nodes have nothing to release."""
    node = KeptNode("n0", MemoryNetwork(), Time(), rules=ReplicaRules())
    await node.pull(image(), NAME)
    monkeypatch.setattr(node.store, "open", pytest.fail)
    assert await node.scan() == []
    assert node.keeper.describe() == {
        "floor": 0,
        "ceiling": 0,
        "draining": None,
        "images": [],
        "taking": [],
    }


async def test_the_next_node_keeps_an_image_before_its_keeper_goes() -> None:
    """The keeper drains: without any grace another node keeps the image, and the keeper serves."""
    nodes, _, _ = cluster(3, floor=1)
    for node in nodes:
        await node.pull(image(), NAME)
        await node.scan()
    [first] = keepers(nodes)
    [keeper] = [node for node in nodes if node.peer.id == first]
    keeper.drain.causes = {DrainCause.COMMAND: "by uid 0"}
    for node in nodes:
        if node is not keeper:
            node.drain.draining_peers = frozenset({first})
            await node.scan()
    assert len(keepers(nodes)) == 2
    assert first in keepers(nodes)
    assert await keeper.scan() == []
    assert keeper.keeper.describe()["draining"] == {"command": "by uid 0"}


async def test_a_change_of_the_drain_begins_a_scan() -> None:
    nodes, _, _ = cluster(1, floor=1)
    [node] = nodes
    await node.pull(image(), NAME)
    task = asyncio.create_task(node.keeper.run())
    node.drain.changed.set()

    async def is_kept() -> bool:
        return bool(node.replicas.held())

    await until(is_kept, deadline=5.0)
    task.cancel()
    await asyncio.wait([task])
