"""Pre-heating on real parts: registries with and without a password, containerds, nodes."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spegel_py.oci.build import Image
from tests.integration.cluster import (
    everybody,
    found,
    found_at,
    heal,
    joined,
    kill_node,
    metric,
    publish,
    registry_away,
)
from tests.support.images import image
from tests.support.lab import REGISTRY, Lab, Node, Registry, start_lab, until
from tests.support.processes import CommandFailed, run

pytestmark = pytest.mark.root

PRIVATE = "10.99.1.251:5000"
"""The registry that wants a user and a password."""


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three machines, on which spegel-py does not run yet, and one for a second registry."""
    async with start_lab(nodes=3, guests={"private": PRIVATE.partition(":")[0]}) as made:
        yield made


@pytest.fixture
async def private(lab: Lab) -> AsyncIterator[Registry]:
    """A registry with a user."""
    folder = lab.registry.folder.parent / "private"
    registry = Registry(
        folder=folder, namespace=lab.guests["private"], address=PRIVATE, is_private=True
    )
    await registry.start()
    yield registry
    await registry.stop()


async def start(lab: Lab, **flags: str | None) -> None:
    """Start nodes that ask both registries without TLS."""
    plain = f"http://{REGISTRY},http://{PRIVATE}"
    await heal(lab, mirrored_registries=plain, **flags)


async def preheat(node: Node, *arguments: str) -> str:
    """Run the command as a person does; fails with its output if it fails."""
    socket = node.folder / "data" / "control.sock"
    command = (sys.executable, "-m", "spegel_py", "preheat", *arguments)
    return await run(*command, "--control-socket", str(socket))


def sent(registry: Registry) -> int:
    """Return the bytes that a registry has sent as answers to GETs."""
    return sum(one.size for one in registry.requests("GET") if one.status in (200, 206))


def copies(registry: Registry, one: Image) -> float:
    """Return how often a registry has sent an image, to a hundredth.

    Nodes that begin at the same moment may each ask for the small manifest.
    """
    return round(sent(registry) / size_of(one), 2)


def size_of(one: Image) -> int:
    return sum(len(blob.data) for blob in one.blobs)


async def leases(node: Node) -> list[str]:
    return (await node.daemon.ctr("leases", "ls", "-q")).split()


async def replicas(node: Node) -> list[str]:
    """Return the leases of complete images; one that is being written has another lease."""
    return [lease for lease in await leases(node) if lease.startswith("spegel-py/content/")]


async def has_nothing(node: Node) -> bool:
    return not await leases(node) and not await node.daemon.content()


def credentials(folder: Path, user: str, password: str) -> Path:
    """Write a docker config.json for the private registry."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {PRIVATE: {"auth": auth}}}))
    return folder


@pytest.mark.containerd
async def test_a_job_brings_an_image_that_the_kubelet_then_pulls_without_a_byte(lab: Lab) -> None:
    """The runtime sees no image before, and its pull asks the registry for nothing."""
    await start(lab)
    first = lab.nodes[0]
    one, reference = image(layers=3, size=300_000), lab.name("test/one:1")
    await lab.registry.push(reference, one)
    output = await preheat(first, reference, "--wait")
    assert "done" in output
    assert sent(lab.registry) == size_of(one)
    assert len(await replicas(first)) == 1
    assert await first.cri.images() == []
    lab.registry.forget()
    await first.cri.pull(reference)
    assert lab.registry.requests("GET") == []
    assert await metric(first, "spegel_preheat_nodes_total", outcome="done") == 1
    [job] = json.loads(await preheat(first, "ls", "--json"))["jobs"]
    await first.cri.remove(reference)
    await preheat(first, "cancel", job["id"])
    assert await has_nothing(first)


async def test_a_list_brings_an_image_to_all_nodes_for_one_copy(lab: Lab, tmp_path: Path) -> None:
    """Three nodes want it at once. The registry sends it once. It goes when it leaves the list."""
    one, reference = image(layers=3, size=8_000_000), lab.name("test/all:1")
    await lab.registry.push(reference, one)
    path = tmp_path / "list.yaml"
    path.write_text("preheat: []\n")
    await start(lab, preheat_file=str(path))
    path.write_text(f"preheat: [{{image: '{reference}', nodes: all}}]\n")

    async def all_have_it() -> bool:
        return all([len(await replicas(node)) == 1 for node in lab.nodes])

    await until(all_have_it, deadline=30.0)
    assert copies(lab.registry, one) == 1.0
    path.write_text("preheat: []\n")

    async def none_has_it() -> bool:
        return all([await has_nothing(node) for node in lab.nodes])

    await until(none_has_it, deadline=30.0)


async def test_wrong_credentials_are_told_and_leave_nothing(
    lab: Lab, private: Registry, tmp_path: Path
) -> None:
    """Corrected ones are read without a restart, and bring the image."""
    folder = credentials(tmp_path / "credentials", private.user, "wrong")
    await start(lab, registry_credentials=str(folder))
    first = lab.nodes[0]
    one, reference = image(), f"{PRIVATE}/test/private:1"
    await private.push(reference, one)
    with pytest.raises(CommandFailed, match="no-credentials"):
        await preheat(first, reference, "--wait")
    with pytest.raises(CommandFailed, match="no-credentials"):
        await preheat(first, f"{PRIVATE}/test/private@{one.root.digest}", "--wait")
    assert await has_nothing(first)
    credentials(folder, private.user, private.password)
    await preheat(first, reference, "--wait")
    assert len(await replicas(first)) == 1
    assert first.spegel is not None
    assert private.password not in first.spegel.output
    audit = (first.folder / "data" / "audit.jsonl").read_text()
    assert '"actor":"uid 0"' in audit
    assert '"outcome":"succeeded"' in audit


async def test_a_node_that_is_killed_goes_on_with_its_job(lab: Lab) -> None:
    """The job is in its file, and the bytes that came stay in containerd."""
    await start(lab)
    first = lab.nodes[0]
    one, reference = image(layers=2, size=2_000_000), lab.name("test/killed:1")
    await lab.registry.push(reference, one)
    await preheat(first, reference, "--rate", "1MB/s")

    async def has_begun() -> bool:
        [job] = json.loads(await preheat(first, "ls", "--json"))["jobs"]
        return any(
            node["done"] > 100_000 for found in job["images"] for node in found["nodes"].values()
        )

    await until(has_begun, deadline=20.0, pause=0.2)
    assert first.spegel is not None
    await first.spegel.end(9)
    await heal(lab, mirrored_registries=f"http://{REGISTRY}")
    [job] = json.loads(await preheat(first, "ls", "--json"))["jobs"]
    await preheat(first, "status", job["id"], "--wait")
    await first.cri.pull(reference)


async def test_readiness_waits_for_the_list(lab: Lab, tmp_path: Path) -> None:
    """Until the image is pushed; the reason is in the answer."""
    reference = lab.name("test/ready:1")
    path = tmp_path / "list.yaml"
    path.write_text(f"preheat: [{{image: '{reference}', ready: true}}]\n")
    await start(lab, preheat_file=str(path))
    first = lab.nodes[0]

    async def is_waiting() -> bool:
        answer = await first.get("/readyz")
        return answer.status == 500 and b"not here yet" in answer.body

    await until(is_waiting, deadline=20.0)
    await lab.registry.push(reference, image())
    path.write_text(f"preheat: [{{image: '{reference}', ready: true, nodes: all}}]\n")

    async def are_ready() -> bool:
        answers = await asyncio.gather(*(node.get("/readyz") for node in lab.nodes))
        return all(answer.status == 200 for answer in answers)

    await until(are_ready, deadline=30.0)


async def test_a_job_for_all_nodes_costs_one_copy(lab: Lab) -> None:
    """One node is asked. All have the image under a lease, and no kubelet's pull moves a byte."""
    await start(lab)
    first = lab.nodes[0]
    one, reference = image(layers=3, size=2_000_000), lab.name("test/all:2")
    await lab.registry.push(reference, one)
    job = json.loads(await preheat(first, reference, "--nodes", "all", "--wait", "--json"))
    assert job["state"] == "succeeded"
    [found] = job["images"]
    assert len(found["nodes"]) == 3
    assert copies(lab.registry, one) == 1.0
    for node in lab.nodes:
        assert len(await replicas(node)) == 1
        assert await node.cri.images() == []
    lab.registry.forget()
    for node in lab.nodes:
        await node.cri.pull(reference)
    assert lab.registry.requests("GET") == []
    for node in lab.nodes:
        await node.cri.remove(reference)
    await preheat(first, "cancel", job["id"])

    async def none_has_it() -> bool:
        return all([await has_nothing(node) for node in lab.nodes])

    await until(none_has_it, deadline=30.0)


async def test_each_node_says_why_it_refuses(lab: Lab, private: Registry, tmp_path: Path) -> None:
    """One node has the password, and gives the image to the others, which have a wrong one."""
    await start(lab)
    first, second, third = lab.nodes
    reference = f"{PRIVATE}/test/private:2"
    one = image(layers=2, size=500_000)
    await private.push(reference, one)
    for node in (first, second, third):
        assert node.spegel is not None
        await node.spegel.end()
    for node, password in ((first, private.password), (second, "wrong"), (third, "wrong")):
        folder = credentials(node.folder / "credentials", private.user, password)
        await node.start_spegel(
            mirrored_registries=f"http://{PRIVATE}",
            registry_credentials=str(folder),
            static_bootstrap_peers=everybody(lab),
        )
    await joined(*lab.nodes)
    by_digest = f"{PRIVATE}/test/private@{one.root.digest}"
    others = f"{second.address},{third.address}"
    with pytest.raises(CommandFailed) as raised:
        await preheat(first, by_digest, "--nodes", others, "--wait")
    for node in (second, third):
        assert f"({node.address}): failed, no-credentials" in str(raised.value)
        assert await has_nothing(node)
    assert await has_nothing(first)
    await preheat(first, reference, "--nodes", "all", "--wait")
    assert [len(await replicas(node)) for node in lab.nodes] == [1, 1, 1]


async def test_a_node_gives_away_what_only_it_has(lab: Lab) -> None:
    """Its image and the registry are gone afterwards: another node still pulls the image."""
    await start(lab)
    first = lab.nodes[0]
    alone, shared = lab.name("test/alone:1"), lab.name("test/shared:1")
    await lab.registry.push(alone, image("alone", layers=2, size=300_000))
    await publish(lab, shared, image("shared"), first, lab.nodes[1])
    await first.cri.pull(alone)
    await found(lab.nodes[1], alone)
    socket = first.folder / "data" / "control.sock"
    command = (sys.executable, "-m", "spegel_py", "evacuate", "--wait", "--json")
    job = json.loads(await run(*command, "--control-socket", str(socket)))
    assert job["state"] == "succeeded"
    assert [found["image"] for found in job["images"]] == [alone]
    await kill_node(first)
    async with registry_away(lab):
        await lab.nodes[2].cri.pull(alone)


@pytest.mark.containerd
async def test_an_unpacked_image_is_pulled_by_the_kubelet_in_an_instant(lab: Lab) -> None:
    """On every node, without a byte from the registry. The end of the job leaves nothing behind."""
    await start(lab)
    first = lab.nodes[0]
    one, reference = image(layers=3, size=2_000_000), lab.name("test/unpacked:1")
    await lab.registry.push(reference, one)
    arguments = (reference, "--nodes", "all", "--depth", "unpacked", "--wait", "--json")
    job = json.loads(await preheat(first, *arguments))
    assert job["state"] == "succeeded"
    assert copies(lab.registry, one) == 1.0
    lab.registry.forget()
    for node in lab.nodes:
        assert await node.cri.images() == []
        before = await node.daemon.ctr("snapshots", "ls")
        assert len(before.splitlines()) == 1 + 3
        await node.cri.pull(reference)
        assert await node.daemon.ctr("snapshots", "ls") == before
        await node.cri.remove(reference)
    assert lab.registry.requests("GET") == []
    await preheat(first, "cancel", job["id"])

    async def none_has_it() -> bool:
        listed = [await node.daemon.ctr("snapshots", "ls") for node in lab.nodes]
        has_snapshots = any(len(each.splitlines()) > 1 for each in listed)
        return not has_snapshots and all([await has_nothing(node) for node in lab.nodes])

    await until(none_has_it, deadline=30.0)


@pytest.mark.containerd
async def test_the_runtime_pulls_a_private_image_through_the_mirror(
    lab: Lab, private: Registry, tmp_path: Path
) -> None:
    """With the node's credentials. The second node takes the bytes from the first one."""
    folder = credentials(tmp_path / "credentials", private.user, private.password)
    await start(lab, registry_credentials=str(folder))
    first, second, _ = lab.nodes
    one, reference = image(layers=2, size=500_000), f"{PRIVATE}/test/private:3"
    await private.push(reference, one)
    for node in (first, second):
        node.write_hosts_toml(mirror=f"http://{node.address}:5000", registry=PRIVATE)
    await preheat(first, reference, "--depth", "runtime", "--wait")
    await found_at(second, (str(blob.digest) for blob in one.blobs), first)
    taken = sent(private)
    socket = second.folder / "data" / "control.sock"
    command = (sys.executable, "-m", "spegel_py", "preheat", reference, "--depth", "runtime")
    await run(*command, "--wait", "--control-socket", str(socket))
    assert sent(private) - taken < 100_000
    for node in (first, second):
        [listed] = await node.cri.images()
        assert listed.tags == (reference,)
        assert await leases(node) == []
