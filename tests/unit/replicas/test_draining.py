"""Nodes that begin and end to drain, and the peers that know it, over a network in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from spegel_py.oci.filters import EVERYTHING
from spegel_py.replicas.drain_state import DrainCause, DrainState
from spegel_py.replicas.draining import (
    DAMAGED,
    FILE,
    PATIENCE,
    SPREAD,
    TELL,
    Draining,
    DrainSigns,
)
from spegel_py.replicas.keep_queue import KeepQueue
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_rules import ReplicaRules
from spegel_py.replicas.sick_reports import WITHIN
from spegel_py.replicas.taker import ImageTaker
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_replicas import MemoryReplicas
from spegel_py.store.memory_store import MemoryStore


class DrainingNode:
    """One node with the signs that a test gives it."""

    def __init__(
        self,
        name: str,
        network: MemoryNetwork,
        partners: MemoryNetwork,
        *,
        folder: Path | None = None,
        is_automatic: bool = True,
    ) -> None:
        self.now = 1000.0
        self.disk: list[str] = []
        self.damaged = 0
        self.cordoned = ""
        self.predicted: Mapping[str, str] = {}
        self.unhealthy: Mapping[str, str] = {}
        peer = Peer(name, "10.0.0.1", 5000)
        self.registry = CollectorRegistry()
        metrics = ReplicaMetrics(self.registry)
        requests = partners.requests(peer)
        self.state = DrainState()
        self.draining = Draining(
            state=self.state,
            router=network.join(peer),
            requests=requests,
            signs=DrainSigns(
                is_automatic=is_automatic,
                connected=lambda: [one.id for one in network.members if one != peer],
                predicted=lambda: self.predicted,
                unhealthy=lambda: self.unhealthy,
                disk_faults=lambda: self.disk,
                damaged=lambda: self.damaged,
                cordoned=lambda: self.cordoned,
            ),
            folder=folder,
            metrics=metrics,
            clock=lambda: 5.0,
            monotonic=lambda: self.now,
        )
        self.actions: list[Mapping[str, object]] = []
        self.draining.on_action = self.actions.append
        queue = KeepQueue(
            taker=ImageTaker(
                replicas=MemoryReplicas(store=MemoryStore()), mirror="http://127.0.0.1:9"
            ),
            rules=ReplicaRules(floor=1),
            filters=EVERYTHING,
            metrics=metrics,
            drain=self.state,
        )
        queue.on_sick = self.draining.on_sick
        requests.set_handler(queue.handle)

    def causes(self) -> set[str]:
        """Return the causes, which the metric shows alike."""
        found = {cause.value for cause in self.state.causes}
        shown = {
            cause.value
            for cause in DrainCause
            if self.registry.get_sample_value("spegel_draining", {"cause": cause.value})
        }
        assert found == shown
        return found


def cluster(count: int, **given: object) -> list[DrainingNode]:
    network, partners = MemoryNetwork(), MemoryNetwork()
    return [DrainingNode(f"n{at}", network, partners, **given) for at in range(count)]  # type: ignore[arg-type]


async def test_the_others_know_a_node_that_drains() -> None:
    first, second = cluster(2)
    await first.draining.begin(DrainCause.COMMAND, "by uid 0", actor="uid 0")
    await second.draining.find_peers()
    assert second.state.leaving_peers == {"n0"}
    assert second.state.changed.is_set()
    await first.draining.begin(DrainCause.CORDONED, "it is cordoned")
    await first.draining.end(DrainCause.COMMAND)
    await second.draining.find_peers()
    assert second.state.leaving_peers == {"n0"}
    await first.draining.end(DrainCause.CORDONED)
    await second.draining.find_peers()
    assert second.state.leaving_peers == frozenset()
    assert [(one["action"], one["why"], one["actor"]) for one in first.actions] == [
        ("drain", "command", "uid 0"),
        ("drain", "cordoned", "spegel-py"),
        ("undrain", "command", "spegel-py"),
        ("undrain", "cordoned", "spegel-py"),
    ]


async def test_only_a_command_outlives_a_restart(tmp_path: Path) -> None:
    [node] = cluster(1, folder=tmp_path)
    await node.draining.begin(DrainCause.COMMAND, "by uid 0")
    await node.draining.begin(DrainCause.DISK, "it is full")
    assert await _started_again(tmp_path) == {"command"}
    await node.draining.end(DrainCause.COMMAND)
    assert await _started_again(tmp_path) == set()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
async def test_a_damaged_file_is_no_drain(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert await _started_again(tmp_path) == set()


async def _started_again(folder: Path) -> set[str]:
    [node] = cluster(1, folder=folder)
    task = asyncio.create_task(node.draining.run())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    return node.causes()


async def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path: Path) -> None:
    [node] = cluster(1, folder=tmp_path / "missing")
    await node.draining.begin(DrainCause.COMMAND, "by uid 0")
    assert node.causes() == {"command"}


async def test_a_failing_disk_drains_its_node_while_it_fails() -> None:
    [node] = cluster(1)
    for disk, damaged in ((["disk-full at /d: 0 of 9 bytes are free"], 0), ([], DAMAGED)):
        node.disk, node.damaged = disk, damaged
        await node.draining.look()
        node.now += PATIENCE - 1.0
        await node.draining.look()
        assert node.causes() == set()
        node.now += 1.0 + SPREAD
        await node.draining.look()
        assert node.causes() == {"disk"}
        node.disk, node.damaged = [], 0
        await node.draining.look()
        assert node.causes() == set()


async def test_a_failure_that_two_peers_predict_drains_the_node() -> None:
    """It leaves their counts at once, and ends when their reports do."""
    nodes = cluster(4)
    sick, first, second, other = nodes
    first.predicted = {"n0": "checks take longer and longer; predicted 40 s ahead"}
    await first.draining.look()
    assert first.state.leaving_peers == {"n0"}
    await sick.draining.look()
    assert sick.causes() == set()
    second.predicted = {"n0": "bodies come slower\n"}
    await second.draining.look()
    await sick.draining.look()
    assert sick.causes() == {"sick"}
    assert "2 nodes predict" in sick.state.causes[DrainCause.SICK]
    await other.draining.find_peers()
    assert other.state.leaving_peers == {"n0"}
    # its failure has come: it is told again, and stays left out
    for node in (first, second):
        node.predicted, node.unhealthy = {}, {"n0": "it fails its checks"}
        node.now += TELL + 1.0
        sick.now = node.now
        await node.draining.look()
        assert node.state.leaving_peers == {"n0"}
    sick.now += WITHIN - 1.0
    await sick.draining.look()
    assert sick.causes() == {"sick"}
    sick.now += 2.0
    await sick.draining.look()
    assert sick.causes() == set()


async def test_a_silent_peer_is_told_in_vain() -> None:
    first, _ = cluster(2)
    first.predicted = {"n1": "slow", "unknown": "slow"}
    await first.draining.look()
    assert first.state.leaving_peers == {"n1", "unknown"}


async def test_the_brake_holds_for_causes_that_may_be_common_to_all() -> None:
    first, second, third = cluster(3)
    for node in (first, second, third):
        node.disk = ["disk-full"]
        await node.draining.look()
        node.now += PATIENCE + SPREAD
    await first.draining.look()
    await second.draining.look()
    assert (first.causes(), second.causes()) == ({"disk"}, set())
    second.cordoned = "it is cordoned"
    await second.draining.look()
    assert second.causes() == {"cordoned"}


async def test_without_a_floor_a_node_drains_for_no_cause_of_its_own() -> None:
    [node] = cluster(1, is_automatic=False)
    node.disk, node.cordoned = ["disk-full"], "it is cordoned"
    for peer in ("a", "b"):
        node.draining.on_sick(peer, "slow")
    await node.draining.look()
    node.now += PATIENCE + SPREAD
    await node.draining.look()
    assert node.causes() == {"cordoned"}
