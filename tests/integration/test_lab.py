"""The lab itself: real pulls from the real registry, with nothing of ours between."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from spegel_py.oci.build import Image
from tests.support.images import image
from tests.support.lab import Lab, start_lab

pytestmark = pytest.mark.root

APP = image(layers=3, size=50_000, is_runnable=True)


async def push(lab: Lab, one: Image = APP, *, is_docker: bool = False) -> str:
    reference = lab.name("test/app:1")
    await lab.registry.push(reference, one, is_docker=is_docker)
    return reference


@pytest.mark.containerd
@pytest.mark.parametrize("is_docker", [False, True], ids=["OCI", "Docker"])
async def test_a_kubelet_s_pull_comes_from_the_registry(lab: Lab, is_docker: bool) -> None:
    """CRI pulls and unpacks; the registry saw one request for each blob, from that node alone."""
    reference = await push(lab, is_docker=is_docker)
    node = lab.nodes[0]
    assert lab.registry.requests() == []
    identity = await node.cri.pull(reference)
    [pulled] = await node.cri.images()
    assert pulled.id == identity
    assert pulled.tags == (reference,)
    assert {one.client.rpartition(":")[0] or one.client for one in lab.registry.requests()} == {
        node.address
    }
    blobs = [one for one in lab.registry.requests("GET") if "/blobs/" in one.path]
    assert len(blobs) == len(APP.blobs) - 1
    assert await lab.nodes[1].cri.images() == []
    await node.cri.remove(reference)
    assert await node.cri.status(reference) is None


@pytest.mark.containerd
async def test_a_pull_by_hand_of_an_index(lab: Lab) -> None:
    """`ctr` pulls one platform of an image for several."""
    reference = await push(lab, image(platforms=("amd64", "arm64"), is_runnable=True))
    await lab.nodes[1].ctr_pull(reference)
    assert reference in await lab.nodes[1].daemon.ctr("images", "ls", "-q")


@pytest.mark.containerd
async def test_a_mirror_is_asked_first(lab: Lab) -> None:
    """With hosts.toml the registry's own address serves as the mirror, while the server does not
    exist.
    """
    reference = await push(lab)
    lab.nodes[0].write_hosts_toml(mirror="http://10.99.1.250:5000", server="http://10.99.1.99:1")
    await lab.nodes[0].cri.pull(reference)
    assert lab.registry.requests("HEAD")


async def test_nodes_reach_each_other_until_the_cable_is_pulled(lab: Lab) -> None:
    """Traffic passes between namespaces, and a pulled cable stops it."""
    first = lab.nodes[0]
    assert (await first.get("/v2/", host="10.99.1.250")).status == 200
    await first.namespace.plug(is_in=False)
    with pytest.raises(OSError, match=r"timed out|No route"):
        await first.get("/v2/", host="10.99.1.250", timeout=0.5)
    await first.namespace.plug(is_in=True)
    assert (await first.get("/v2/", host="10.99.1.250")).status == 200


async def test_stopped_processes_go_on(lab: Lab) -> None:
    """SIGSTOP and SIGCONT by process id."""
    lab.registry.process.send(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await lab.nodes[0].get("/v2/", host="10.99.1.250", timeout=0.3)
    lab.registry.process.send(signal.SIGCONT)
    assert (await lab.nodes[0].get("/v2/", host="10.99.1.250")).status == 200


async def test_nothing_is_left_behind() -> None:
    """Namespaces, processes and folders of a lab are gone after it, though its test fails."""
    lab: Lab | None = None
    with contextlib.suppress(RuntimeError):
        async with start_lab(nodes=1) as lab:
            pids = [lab.registry.process.pid, lab.nodes[0].daemon.process.pid]
            raise RuntimeError("the test failed")
    assert lab
    names = [lab.registry.namespace.name, lab.nodes[0].namespace.name]
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)
    listed = await asyncio.to_thread(
        subprocess.run, ["ip", "netns"], capture_output=True, text=True, check=True
    )
    assert not any(name in listed.stdout for name in names)
    assert not lab.registry.folder.parent.exists()
