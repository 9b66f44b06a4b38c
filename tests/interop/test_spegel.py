"""Side by side with the real Spegel: one DHT, a node of each, each on its own containerd, the registry stopped.

`SPEGEL_BIN=/path/to/spegel pytest tests/interop` runs these tests; without a binary they are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests import images
from tests.lab import Lab, Node, start_lab
from tests.processes import Process, until

SPEGEL = os.environ.get("SPEGEL_BIN", "")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SPEGEL, reason="SPEGEL_BIN names no Spegel binary to stand beside"),
]


@dataclass
class Pair:
    """A node of ours that holds `ours:1` and one of Spegel's that holds `theirs:1`; the registry is stopped."""

    lab: Lab
    ours: Node
    theirs: Node
    spegel: Process


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with start_lab(nodes=2) as lab:
        ours, theirs = lab.nodes
        for node, name in ((ours, "ours"), (theirs, "theirs")):
            await lab.registry.push(lab.name(f"test/{name}:1"), images.image(name, layers=3, size=300_000))
            await node.ctr_pull(lab.name(f"test/{name}:1"))
            node.write_hosts_toml(mirror="http://127.0.0.1:5000")
        await ours.start_spegel()
        spegel = _spegel(theirs, await _peer_id(ours))
        await spegel.start(lambda: _is(theirs, "/livez", 200))
        try:
            await until(lambda: _is(ours, "/readyz", 200), deadline=30)
            await until(lambda: _is(theirs, "/readyz", 200), deadline=30)
            await lab.registry.stop()
            yield Pair(lab, ours, theirs, spegel)
        finally:
            await spegel.end()


def _spegel(node: Node, peer: str) -> Process:
    """Return Spegel with the flags our own node gets, which is a test of the flags too; it needs the peer's id."""
    flags = node.flags()
    flags["static_bootstrap_peers"] = f"{flags['static_bootstrap_peers']}/p2p/{peer}"
    del flags["log_format"]  # ours alone
    options = [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return Process(command=[*node.namespace.prefix, SPEGEL, "registry", *options], log=node.folder / "go.log")


async def _peer_id(node: Node) -> str:
    def find() -> str | None:
        assert node.spegel is not None
        found = re.search(r"/p2p/(12D3\w+)", node.spegel.output)
        return found.group(1) if found else None

    async def is_there() -> bool:
        return find() is not None

    await until(is_there, deadline=30)
    return find() or ""


async def _is(node: Node, path: str, status: int) -> bool:
    try:
        return (await node.get(path)).status == status
    except OSError:
        return False


async def _offers(node: Node, path: str) -> bool:
    return await _is(node, path, 200)


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_each_pulls_from_the_other(pair: Pair, by: str) -> None:
    """With the registry stopped, the Go node pulls from ours and ours from the Go node, by tag and by digest."""
    for puller, name in ((pair.ours, "theirs"), (pair.theirs, "ours")):
        path = f"/v2/test/{name}/manifests/1?ns={pair.lab.name('').rstrip('/')}"
        await until(partial(_offers, puller, path), deadline=30)
        reference = pair.lab.name(f"test/{name}:1")
        if by == "digest":
            answer = await puller.get(path, method="HEAD")
            reference = pair.lab.name(f"test/{name}@{answer.headers['docker-content-digest']}")
        await puller.ctr_pull(reference, "--snapshotter", "native")


async def test_a_dead_go_node_is_let_go(pair: Pair) -> None:
    """When the Go node dies, ours answers 404 for what it held, fast."""
    path = f"/v2/test/theirs/manifests/1?ns={pair.lab.name('').rstrip('/')}"
    await until(lambda: _offers(pair.ours, path), deadline=30)
    await pair.spegel.end()
    await until(lambda: _is(pair.ours, path, 404), deadline=5)


def test_the_binary_is_there() -> None:
    """SPEGEL_BIN names a file that exists."""
    assert Path(SPEGEL).is_file()
