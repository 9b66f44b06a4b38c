"""The cluster's keys with real nodes: strangers stay outside, and keys are replaced in service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from spegel_py.routing.cluster_keys import ClusterKey, KeysMode
from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node as NodeProcess
from tests.benchmarks.nodes import layout
from tests.support import processes
from tests.support.images import image
from tests.support.routers import Node, cluster, ports, until

OLD, NEW = ClusterKey(b"o" * 32), ClusterKey(b"n" * 32)
KEY = f"sha256:{1:064x}"
BAD = "secret-file-bad"


async def test_a_stranger_learns_nothing_and_tells_nothing() -> None:
    async with cluster(3, keys=[OLD]) as nodes:
        await nodes[0].router.advertise([KEY])
        await until(lambda: _finds(nodes[1], KEY, nodes[0]))
        stranger = Node(bootstrap=[node.multiaddr for node in nodes])
        async with stranger.router.running():
            await stranger.router.advertise([KEY])
            await until(lambda: nodes[2].dropped["no-cluster-key"] > 0)
            assert stranger.router.connected() == []
            assert await ports(stranger.router, KEY) == set()
            assert await ports(nodes[1].router, KEY) == {nodes[0].registry_port}
        assert nodes[1].router.members_by_kind() == {"keyed": 2, "clear": 0}


async def test_keys_are_introduced_without_an_interruption() -> None:
    """Nodes that accept are peers of those without a key; then all have it, and it is required."""
    async with AsyncExitStack() as stack:
        plain = Node()
        await stack.enter_async_context(plain.router.running())
        first = Node(bootstrap=[plain.multiaddr], keys=[OLD], keys_mode=KeysMode.ACCEPT)
        await stack.enter_async_context(first.router.running())
        strict = Node(bootstrap=[first.multiaddr], keys=[OLD])
        await stack.enter_async_context(strict.router.running())
        await until(lambda: first.router.members_by_kind() == {"keyed": 1, "clear": 1})
        assert plain.router.members_by_kind() == {"keyed": 0, "clear": 1}
        assert strict.router.members_by_kind() == {"keyed": 1, "clear": 0}


async def test_keys_are_replaced_while_lookups_go_on() -> None:
    """The steps that the guide gives: both keys everywhere, the new one first, the new one only."""
    async with cluster(4, keys=[OLD]) as nodes:
        await nodes[0].router.advertise([KEY])
        await until(lambda: _finds(nodes[1], KEY, nodes[0]))
        for keys in ([OLD, NEW], [NEW, OLD], [NEW]):
            await asyncio.gather(*(node.router.use_keys(keys) for node in nodes))
            await until(lambda: _have_met(nodes))
            for node in nodes[1:]:
                await until(lambda node=node: _finds(node, KEY, nodes[0]))
        joining = Node(bootstrap=[nodes[0].multiaddr], keys=[NEW])
        async with joining.router.running():
            await until(lambda: len(joining.router.connected()) == len(nodes))
        late = Node(bootstrap=[nodes[0].multiaddr], keys=[OLD])
        async with late.router.running():
            await until(lambda: nodes[0].dropped["no-cluster-key"] > 0)
            assert late.router.connected() == []


async def test_a_node_goes_on_with_its_keys_while_the_file_is_broken(tmp_path: Path) -> None:
    """The file is read again while the node runs; the state shows which keys are in use."""
    keys = tmp_path / "keys"
    keys.write_text(OLD.secret.hex())
    keys.chmod(0o600)
    store = {**layout(tmp_path / "layout", {"registry.example/app:1": image()})}
    node = NodeProcess(folder=tmp_path / "node", store={**store, "cluster-keys": keys})
    await node.start()
    try:
        keys.write_text("")
        await _said(node, "secret file unreadable")
        await _open(node, {f"{keys}": "it has no key"})
        keys.write_text(f"{NEW.secret.hex()}\n{OLD.secret.hex()}")
        await _said(node, "secret file changed")
        await _open(node, {})
        keys.chmod(0o644)
        await _open(node, {f"{keys}": f"chmod 600 {keys}"})
        keys.chmod(0o600)
        await _open(node, {})
        assert NEW.fingerprint in node.process.output
        for secret in (OLD, NEW):
            assert secret.secret.hex()[:16] not in node.process.output
        with Client(node.metrics) as client:
            status, body = client.read("/metrics")
        assert status == 200
        assert b'spegel_members{kind="keyed"} 0.0' in body
    finally:
        await node.process.end()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "it has no key; write one with `openssl rand -hex 32`"),
        ("ab" * 31, "line 1 has 62 characters; a key has 64"),
    ],
    ids=["missing", "empty", "short"],
)
async def test_a_node_does_not_start_with_a_broken_key_file(
    tmp_path: Path, content: str | None, message: str
) -> None:
    """Nor would it be a member without a key; containerd goes to the registry meanwhile."""
    keys = tmp_path / "keys"
    if content is not None:
        keys.write_text(content)
    node = NodeProcess(
        folder=tmp_path / "node", store={"oci-layout": tmp_path, "cluster-keys": keys}
    )
    with pytest.raises(AssertionError, match=message):
        await node.start()


async def _finds(node: Node, key: str, holder: Node) -> bool:
    return await ports(node.router, key) == {holder.registry_port}


def _have_met(nodes: Sequence[Node]) -> bool:
    everybody = len(nodes) - 1
    return all(node.router.members_by_kind() == {"keyed": everybody, "clear": 0} for node in nodes)


async def _open(node: NodeProcess, faults: dict[str, str]) -> None:
    """Wait until these files have an open alert, each with this text."""

    async def are_open() -> bool:
        with Client(node.metrics) as client:
            _, body = client.read("/debug/state")
        alerts = json.loads(body)["supervision"]["alerts"]
        found = {one["subject"]: one["detail"] for one in alerts if one["condition"] == BAD}
        return found.keys() == faults.keys() and all(
            text in found[file] for file, text in faults.items()
        )

    await processes.until(are_open, deadline=30.0)


async def _said(node: NodeProcess, text: str) -> None:
    async def has_said() -> bool:
        return text in node.process.output

    await processes.until(has_said, deadline=30.0)
