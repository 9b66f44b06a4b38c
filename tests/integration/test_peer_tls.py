"""TLS between real nodes: what is on the wire, mixed clusters, and changes under pulls."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node as NodeProcess
from tests.benchmarks.nodes import layout
from tests.integration.cluster import blob_path, everybody, found, heal, registry_away
from tests.integration.conftest import Labs
from tests.support import processes
from tests.support.certificates import HOUR, Authority
from tests.support.images import image
from tests.support.routers import Node

IMAGE = image("tls", layers=1, size=9_000_000)
TAG = "registry.example/app:1"
MANIFEST = "/v2/app/manifests/1?ns=registry.example"
BLOBS = {f"/v2/app/blobs/{blob.digest}?ns=registry.example": blob.data for blob in IMAGE.blobs[1:]}
"""The small configuration, and the large layer."""
SAMPLE = 24
"""Bytes of content that are searched for on the wire."""
PULLS = int(os.environ.get("ROTATION_PULLS", "10"))
"""Pulls at least in each step of a change; a longer run has more."""


@pytest.mark.parametrize("mode", ["off", "require"])
async def test_nothing_between_nodes_can_be_read_on_the_wire(tmp_path: Path, mode: str) -> None:
    """A node pulls through a relay, which keeps all bytes. Without TLS it has the content."""
    authority, seen = Authority(), bytearray()
    async with AsyncExitStack() as stack:
        holder = await _start(stack, tmp_path / "holder", authority, mode, has_image=True)
        port = await stack.enter_async_context(_relay(holder.registry, seen))
        told = Node(registry_port=port, tls=mode != "off")
        await stack.enter_async_context(told.router.running())
        await told.router.advertise([TAG, *(str(blob.digest) for blob in IMAGE.blobs)])
        asking = await _start(stack, tmp_path / "asking", authority, mode, bootstrap=told.port)
        await _gets(asking, MANIFEST)
        for path, data in BLOBS.items():
            assert await _read(asking, path) == (200, data)
    assert len(seen) > sum(map(len, BLOBS.values()))
    samples = [data[at : at + SAMPLE] for data in BLOBS.values() for at in (0, len(data) // 2)]
    found = [b"HTTP/1.1" in seen, *(sample in seen for sample in samples)]
    assert set(found) == {mode == "off"}


async def test_nodes_of_all_modes_share_as_far_as_they_may(tmp_path: Path) -> None:
    """A node that accepts shares with both others, which do not share with each other."""
    authority = Authority()
    async with AsyncExitStack() as stack:
        holder = await _start(stack, tmp_path / "holder", authority, "accept", has_image=True)
        clear = await _start(stack, tmp_path / "clear", authority, "off", bootstrap=holder.router)
        strict = await _start(
            stack, tmp_path / "strict", authority, "require", bootstrap=holder.router
        )
        for node in (clear, strict):
            await _gets(node, MANIFEST)
            for path, data in BLOBS.items():
                assert await _read(node, path) == (200, data)
        told = {peer["address"]: peer["tls"] for peer in (await _state(holder))["peers"]}
        assert told == {
            f"127.0.0.1:{clear.registry}": False,
            f"127.0.0.1:{strict.registry}": True,
        }
        assert await _metric(holder, 'spegel_tls_members{kind="encrypted"}') == 1
        alone = await _start(
            stack, tmp_path / "alone", authority, "off", bootstrap=clear.router, has_image=True
        )
        await holder.process.end()
        await _gets(clear, MANIFEST)
        assert (await _read(strict, MANIFEST))[0] == 404
        assert alone.pid
        with Client(strict.registry) as client:  # as another node's runtime, and as a peer
            client._connection.request("GET", MANIFEST, headers={"X-Spegel-Mirrored": "true"})
            assert client._connection.getresponse().status == 403


async def test_no_pull_fails_while_tls_is_introduced(tmp_path: Path) -> None:
    """Clear, then accept on all nodes, then require: a node that restarts has peers that do not."""
    authority = Authority()
    async with AsyncExitStack() as stack:
        first = await _start(stack, tmp_path / "first", authority, "off", has_image=True)
        second = await _start(
            stack, tmp_path / "second", authority, "off", bootstrap=first.router, has_image=True
        )
        asking = await _start(stack, tmp_path / "asking", authority, "off", bootstrap=first.router)
        for mode in ("accept", "require"):
            for node in (first, second):
                await processes.until(partial(_knows, asking, node), deadline=30.0)
            async with _pulling(asking):
                for node in (first, second):
                    await node.process.end()
                    _set_mode(node, mode)
                    await node.join()
                    await processes.until(partial(_knows, asking, node), deadline=30.0)
            await asking.process.end()
            _set_mode(asking, mode)
            await asking.join()
        for node in (first, second):
            await processes.until(partial(_knows, asking, node), deadline=30.0)
        assert await _metric(asking, 'spegel_tls_members{kind="encrypted"}') == 2


async def test_no_pull_fails_while_certificates_are_replaced(tmp_path: Path) -> None:
    """The authority is replaced in the steps of the guide, and each node reads its own folder."""
    old, new = Authority(), Authority(name="new")
    async with AsyncExitStack() as stack:
        holder = await _start(stack, tmp_path / "holder", old, "require", has_image=True)
        asking = await _start(stack, tmp_path / "asking", old, "require", bootstrap=holder.router)
        await _gets(asking, MANIFEST)
        async with _pulling(asking):
            for issuer, trusted in ((old, (old, new)), (new, (old, new)), (new, (new,))):
                before = [await _tls(node) for node in (holder, asking)]
                for folder in (tmp_path / "holder", tmp_path / "asking"):
                    issuer.write(folder / "tls", trusted=trusted)
                for node, state in zip((holder, asking), before, strict=True):
                    await processes.until(partial(_differs, node, state), deadline=30.0)


async def test_bad_certificates_keep_those_of_before_and_open_an_alert(tmp_path: Path) -> None:
    """Expired ones do not replace good ones, and the alert ends when the folder is mended."""
    authority = Authority()
    async with AsyncExitStack() as stack:
        node = await _start(stack, tmp_path / "node", authority, "require")
        before = await _tls(node)
        authority.write(tmp_path / "node" / "tls", since=-2 * HOUR, lasts=HOUR)
        await processes.until(lambda: _has_alert(node, "tls.crt expired on"), deadline=30.0)
        assert (await _tls(node))["certificates"] == before["certificates"]
        authority.write(tmp_path / "node" / "tls")
        await processes.until(lambda: _has_alert(node, None), deadline=30.0)
        assert (await _tls(node))["fault"] == ""
        expires = await _metric(node, "spegel_peer_tls_expiry_timestamp_seconds")
        assert expires == (await _tls(node))["expires"]


@pytest.mark.root
async def test_containerd_pulls_from_peers_by_tls(tmp_path: Path, labs: Labs) -> None:
    """It asks its own node without TLS. A machine without a certificate gets nothing there."""
    lab = await labs(3)
    first, second, stranger = lab.nodes
    folder, peers = str(Authority().write(tmp_path / "tls")), everybody(lab)
    tls: dict[str, str | None] = {"peer_tls": folder, "peer_tls_mode": "require"}
    await asyncio.gather(
        *(
            node.start_spegel(static_bootstrap_peers=peers, **flags)
            for node, flags in ((first, tls), (second, tls), (stranger, {}))
        )
    )
    await heal(lab)
    reference, one = lab.name("test/app:1"), image(layers=2, size=3_000_000)
    await lab.registry.push(reference, one)
    await first.cri.pull(reference)
    await found(second, reference, one.blobs[1:])
    async with registry_away(lab):
        await second.cri.pull(reference)
    path = blob_path(one.blobs[-1])
    for headers in ({}, {"X-Spegel-Mirrored": "true"}):
        answer = await stranger.get(path, host=first.address, headers=headers)
        assert answer.status == 403, headers
    assert (await stranger.get("/livez", host=first.address)).status == 200
    assert (await stranger.get(path)).status == 404


async def test_a_node_does_not_start_with_bad_certificates(tmp_path: Path) -> None:
    """As with bad cluster keys: containerd goes to the registry meanwhile."""
    async with AsyncExitStack() as stack:
        with pytest.raises(AssertionError, match=r"--peer-tls: .*/tls.crt expired on .*; renew it"):
            await _start(
                stack, tmp_path / "node", Authority(), "accept", since=-2 * HOUR, lasts=HOUR
            )


async def _start(
    stack: AsyncExitStack,
    folder: Path,
    authority: Authority,
    mode: str,
    *,
    bootstrap: int | None = None,
    has_image: bool = False,
    **dates: Any,
) -> NodeProcess:
    """Run a node with a certificate of the authority."""
    authority.write(folder / "tls", **dates)
    store = layout(folder / "layout", {TAG: IMAGE} if has_image else {})
    flags = {**store, "peer-tls": folder / "tls", "peer-tls-mode": mode}
    node = NodeProcess(folder=folder, store=flags, bootstrap=bootstrap)
    stack.push_async_callback(node.process.end)
    await (node.join() if bootstrap else node.start())
    return node


def _set_mode(node: NodeProcess, mode: str) -> None:
    """Let the node's next life use TLS in this way."""
    command = list(node.process._command)
    command[command.index("--peer-tls-mode") + 1] = mode
    node.process._command = command


@asynccontextmanager
async def _relay(port: int, seen: bytearray) -> AsyncIterator[int]:
    """Pass connections on to a port, and keep all bytes of both directions."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 18):
                seen.extend(piece)
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        for pair in ((reader, far_writer), (far_reader, writer)):
            tasks.add(asyncio.create_task(copy(*pair)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _pulling(node: NodeProcess) -> AsyncIterator[None]:
    """Pull all of the image again and again while the block lasts; fails if a pull does."""
    is_over, outcomes = False, Counter[str]()

    async def pull() -> None:
        while not is_over or outcomes.total() < PULLS:
            for path, data in {MANIFEST: IMAGE.root.data, **BLOBS}.items():
                status, body = await _read(node, path)
                is_right = status == 200 and body == data
                outcomes["ok" if is_right else f"{status} with {len(body)} bytes: {path}"] += 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(pull())
        yield
        is_over = True
        await task
    print(f"{outcomes.total()} requests: {dict(outcomes)}")
    lines = [line for line in node.process.output.splitlines() if '"miss"' in line]
    assert outcomes.keys() == {"ok"}, f"{outcomes}: {lines[-3:]}"


async def _gets(node: NodeProcess, path: str) -> None:
    async def is_there() -> bool:
        return (await _read(node, path))[0] == 200

    await processes.until(is_there, deadline=30.0)


async def _knows(node: NodeProcess, peer: NodeProcess) -> bool:
    """Return True if the node has this peer and its content, and its checks pass."""
    return any(
        each["address"] == f"127.0.0.1:{peer.registry}"
        and each["keys"] == len(IMAGE.blobs) + 2
        and each["health"] == "healthy"
        for each in (await _state(node))["peers"]
    )


async def _differs(node: NodeProcess, before: dict[str, Any]) -> bool:
    """Return True if the node has read its folder again, which had new files."""
    return bool(await _tls(node) != before)


async def _has_alert(node: NodeProcess, text: str | None) -> bool:
    """Return True if an alert has this text, or without a text if there is none."""
    alerts = (await _state(node))["supervision"]["alerts"]
    found = [each["detail"] for each in alerts if each["condition"] == "secret-file-bad"]
    return any(text in each for each in found) if text else not found


async def _tls(node: NodeProcess) -> dict[str, Any]:
    return dict((await _state(node))["peer_tls"])


async def _state(node: NodeProcess) -> dict[str, Any]:
    return dict(json.loads((await _read(node, "/debug/state", port=node.metrics))[1]))


async def _metric(node: NodeProcess, name: str) -> float:
    page = (await _read(node, "/metrics", port=node.metrics))[1].decode()
    [value] = [line.split()[-1] for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(value)


async def _read(node: NodeProcess, path: str, *, port: int = 0) -> tuple[int, bytes]:
    def ask() -> tuple[int, bytes]:
        with Client(port or node.registry) as client:
            return client.read(path)

    return await asyncio.to_thread(ask)
