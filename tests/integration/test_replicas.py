"""Replicas on real containerds: the cluster keeps what every kubelet has removed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.cluster import heal, kill_node, metric, registry_away
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab, until
from tests.support.processes import Process, run
from tests.support.routers import free_port

pytestmark = pytest.mark.root

QUICK = "tests.support.quick_replicas"


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three machines, on which spegel-py does not run yet."""
    async with start_lab(nodes=3) as made:
        yield made


async def start(lab: Lab, **flags: str | None) -> None:
    """Start nodes that scan every second."""
    for node in lab.nodes:
        node.program = QUICK
    await heal(lab, **flags)


async def replicas(node: Node) -> float:
    return await metric(node, "spegel_replicas")


async def keepers(nodes: list[Node]) -> list[Node]:
    counts = await asyncio.gather(*map(replicas, nodes))
    return [node for node, count in zip(nodes, counts, strict=True) if count]


@pytest.mark.containerd
async def test_an_image_outlives_all_its_runtimes(lab: Lab) -> None:
    """The kubelets of both nodes remove it and the registry is away: the third node gets it."""
    await start(lab, replica_floor="1")
    first, second, third = lab.nodes
    one = image(layers=3)
    reference = lab.name("test/kept:1")
    await lab.registry.push(reference, one)
    await first.cri.pull(reference)
    await second.cri.pull(reference)
    await until(lambda: _is_one(lab), deadline=30.0)
    for node in (first, second):
        await node.cri.remove(reference)
        assert await node.cri.images() == []
    [keeper] = await keepers(lab.nodes)
    [other] = [node for node in (first, second) if node is not keeper]
    await until(lambda: _holds_nothing(other), deadline=30.0)
    async with registry_away(lab):
        await third.cri.pull(reference)

    async def is_measured() -> bool:
        return await metric(keeper, "spegel_replica_bytes", alone="true") > 0

    await until(is_measured, deadline=30.0)


async def _is_one(lab: Lab) -> bool:
    return len(await keepers(lab.nodes)) == 1


async def _holds_nothing(node: Node) -> bool:
    return (await node.daemon.ctr("content", "ls", "-q")).split() == []


async def test_the_floor_is_restored_after_a_death_and_a_restart_moves_nothing(lab: Lab) -> None:
    """Two of three nodes keep the image. One dies: the third adds a replica."""
    await start(lab, replica_floor="2")
    reference = lab.name("test/floor:1")
    await lab.registry.push(reference, image())
    for node in lab.nodes:
        await node.cri.pull(reference)

    async def has_floor() -> bool:
        return len(await keepers(lab.nodes)) == 2

    await until(has_floor, deadline=30.0)
    dead, left = await keepers(lab.nodes)
    [spare] = [node for node in lab.nodes if node not in (dead, left)]
    await kill_node(dead)

    async def has_added() -> bool:
        return len(await keepers([left, spare])) == 2

    await until(has_added, deadline=60.0)


async def test_a_floor_of_zero_releases_what_an_earlier_run_kept(lab: Lab) -> None:
    """Nothing of ours stays in containerd once replicas are switched off."""
    await start(lab, replica_floor="1")
    first = lab.nodes[0]
    reference = lab.name("test/off:1")
    await lab.registry.push(reference, image())
    await first.cri.pull(reference)
    await until(lambda: _is_one(lab), deadline=30.0)
    await first.cri.remove(reference)
    assert not await _holds_nothing(first)
    for node in lab.nodes:
        assert node.spegel is not None
        await node.spegel.end()
    await heal(lab, replica_floor="0")
    await until(lambda: _holds_nothing(first), deadline=30.0)
    assert "spegel-py/" not in await first.daemon.ctr("leases", "ls", "-q")


@pytest.mark.containerd
async def test_cleanup_releases_what_a_removed_node_has_kept(lab: Lab, tmp_path: Path) -> None:
    """The content is gone, and another lease stays. A socket without a daemon is no error."""
    await start(lab, replica_floor="1")
    first = lab.nodes[0]
    reference = lab.name("test/removed:1")
    await lab.registry.push(reference, image())
    await first.cri.pull(reference)
    await until(lambda: _is_one(lab), deadline=30.0)
    await first.cri.remove(reference)
    assert first.spegel is not None
    await first.spegel.end()
    await first.daemon.ctr("leases", "create", "--id", "of-another-program")
    assert not await _holds_nothing(first)
    folder = tmp_path / "certs.d"
    folder.mkdir()
    command = (
        *(sys.executable, "-m", "spegel_py", "cleanup"),
        *("--containerd-registry-config-path", str(folder)),
        *("--containerd-sock", str(first.daemon.socket)),
    )
    assert "replicas released" in await run(*command)
    assert await _holds_nothing(first)
    assert (await first.daemon.ctr("leases", "ls", "-q")).split() == ["of-another-program"]
    await first.daemon.kill()
    assert "replicas are not released" in await run(*command)


async def test_a_cleanup_beside_a_running_node_releases_what_it_keeps(
    lab: Lab, tmp_path: Path
) -> None:
    """As when the chart is uninstalled: both are told to end, and the node does so a bit later."""
    await start(lab, replica_floor="1")
    first = lab.nodes[0]
    reference = lab.name("test/uninstalled:1")
    await lab.registry.push(reference, image())
    await first.cri.pull(reference)
    await until(lambda: _is_one(lab), deadline=30.0)
    await first.cri.remove(reference)
    folder = tmp_path / "certs.d"
    folder.mkdir()
    cleanup = Process(
        command=[
            *(sys.executable, "-m", "spegel_py", "cleanup", "--log-format", "json"),
            *("--containerd-registry-config-path", str(folder)),
            *("--containerd-sock", str(first.daemon.socket)),
            *("--addr", f"127.0.0.1:{free_port()}", "--linger", "3s"),
        ],
        log=tmp_path / "cleanup.log",
    )

    async def is_served() -> bool:
        return "the probe is served" in cleanup.output

    await cleanup.start(is_served)
    assert not await _holds_nothing(first)
    assert first.spegel is not None
    await asyncio.gather(cleanup.end(), first.spegel.end())
    assert await _holds_nothing(first)
    assert "spegel-py/" not in await first.daemon.ctr("leases", "ls", "-q")
