"""Clusters that are set up in another way than most: without the content folder, and over IPv6."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.cluster import events, joined, metric, publish, registry_away
from tests.support.images import image
from tests.support.lab import Lab
from tests.support.processes import run

pytestmark = pytest.mark.root


async def test_content_comes_through_the_socket_where_its_folder_is_not_mounted(lab: Lab) -> None:
    """With an empty --containerd-content-path a node serves its peers what it reads over gRPC,
    large layers too.
    """
    app = image("socket", layers=2, size=6_000_000)
    reference = lab.name("test/app:socket")
    holder, puller = lab.nodes
    await asyncio.gather(*(node.start_spegel(containerd_content_path="") for node in lab.nodes))
    puller.write_hosts_toml(mirror=f"http://{puller.address}:5000")
    await joined(holder, puller)
    await publish(lab, reference, app, holder)
    async with registry_away(lab):
        await puller.cri.pull(reference)
    size = sum(len(blob.data) for blob in app.blobs)
    assert await metric(holder, "spegel_served_bytes_total", source="local") >= size
    assert await metric(puller, "spegel_served_bytes_total", source="peer") >= size


async def test_peers_reach_each_other_over_ipv6(lab: Lab) -> None:
    """Nodes whose routers know IPv6 only find each other, and a layer comes from a peer's IPv6
    address.
    """
    app = image("six", size=100_000)
    reference = lab.name("test/app:six")
    holder, puller = lab.nodes
    for number, node in enumerate(lab.nodes, 1):
        address = f"fd00:99::{number}"
        await run(
            "ip", "-n", node.namespace.name, "addr", "add", f"{address}/64", "dev", "eth0", "nodad"
        )
        await node.start_spegel(
            router_addr=f"[{address}]:5001", static_bootstrap_peers="/ip6/fd00:99::1/tcp/5001"
        )
    puller.write_hosts_toml(mirror=f"http://{puller.address}:5000")
    await joined(holder, puller)
    await publish(lab, reference, app, holder)
    async with registry_away(lab):
        await puller.cri.pull(reference)
    [blob] = events(puller, "relay finished", digest=str(app.blobs[-1].digest), method="GET")
    assert [attempt["addr"] for attempt in blob["attempts"]] == ["[fd00:99::1]:5000"]
