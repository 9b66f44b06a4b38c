"""Cluster keys are replaced on three nodes while images are pulled through them: no pull fails.

`ROTATION_PULLS=500` makes it longer; docs/reference/security.md has the result of that.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from spegel_py.oci.build import Blob, Image
from spegel_py.oci.digest import Digest
from spegel_py.routing.cluster_keys import ClusterKey
from spegel_py.tools.files import replace_file
from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node, layout
from tests.support import processes
from tests.support.images import image

pytestmark = pytest.mark.timeout(600)

OLD, NEW = ClusterKey(b"o" * 32), ClusterKey(b"n" * 32)
STEPS = ([OLD, NEW], [NEW, OLD], [NEW])
"""The steps of the guide."""
PULLS = int(os.environ.get("ROTATION_PULLS", "60"))
"""Pulls at least; they go on until all nodes have gone through all steps."""
APP, NAME = image("rotation", layers=3, size=200_000), "registry.example/app:1"


@dataclass
class Pulls:
    """The pulls so far, by outcome: `ok`, or the first fault."""

    node: Node
    outcomes: Counter[str] = field(default_factory=Counter)

    async def run(self, is_over: asyncio.Event, goal: int) -> None:
        """Pull the image again and again, until it is over and the goal is reached."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.node.registry}") as client:
            while not (is_over.is_set() and self.outcomes.total() >= goal):
                self.outcomes[await self._pull(client)] += 1

    async def _pull(self, client: aiohttp.ClientSession) -> str:
        """Pull as containerd does: the tag, then the manifest and all blobs by their digests."""
        paths: list[tuple[str, Digest]] = [
            ("manifests/1", APP.root.digest),
            *((_path(blob), blob.digest) for blob in APP.blobs),
        ]
        for path, digest in paths:
            async with client.get(f"/v2/app/{path}", params={"ns": "registry.example"}) as answer:
                if answer.status != 200:
                    return f"{answer.status} for {path}: {await answer.text()}"
                if not digest.matches(await answer.read()):
                    return f"wrong bytes for {path}"
        return "ok"


def _path(blob: Blob) -> str:
    kind = "manifests" if blob.digest == APP.root.digest else "blobs"
    return f"{kind}/{blob.digest}"


async def test_no_pull_fails_while_keys_are_replaced(tmp_path: Path) -> None:
    """Each node reads its file at a time of its own, and two of them pull from the third."""
    async with _nodes(tmp_path) as (nodes, files):
        is_over, pulls = asyncio.Event(), [Pulls(node) for node in nodes[1:]]
        async with asyncio.TaskGroup() as group:
            for each in pulls:
                group.create_task(each.run(is_over, PULLS // len(pulls)))
            for keys in STEPS:
                for node, file in zip(nodes, files, strict=True):
                    _write(file, keys)
                    await _uses(node, [key.fingerprint for key in keys])
            await processes.until(lambda: _have_met(nodes), deadline=60.0)
            is_over.set()
    outcomes = sum((each.outcomes for each in pulls), Counter[str]())
    print(f"{outcomes.total()} pulls: {dict(outcomes)}")
    assert outcomes.keys() == {"ok"}, outcomes


@asynccontextmanager
async def _nodes(folder: Path) -> AsyncIterator[tuple[Sequence[Node], Sequence[Path]]]:
    """Run three nodes with the old key, the first of which holds the image."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        files = [folder / f"keys{number}" for number in range(3)]
        contents: list[dict[str, Image]] = [{NAME: APP}, {}, {}]
        for number, (file, these) in enumerate(zip(files, contents, strict=True)):
            _write(file, [OLD])
            store = {**layout(folder / f"layout{number}", these), "cluster-keys": file}
            node = Node(
                folder=folder / f"node{number}",
                store=store,
                bootstrap=nodes[0].router if nodes else None,
            )
            stack.push_async_callback(node.process.end)
            await node.start()
            nodes.append(node)
        await processes.until(lambda: _have_met(nodes), deadline=60.0)
        await processes.until(lambda: _find(nodes[1:]), deadline=30.0)
        yield nodes, files


def _write(file: Path, keys: Sequence[ClusterKey]) -> None:
    replace_file(file, "\n".join(key.secret.hex() for key in keys).encode(), mode=0o600)


async def _uses(node: Node, fingerprints: Sequence[str]) -> None:
    """Wait until a node uses these keys."""

    async def is_so() -> bool:
        with Client(node.metrics) as client:
            _, body = client.read("/debug/state")
        return bool(json.loads(body)["cluster_keys"]["keys"] == list(fingerprints))

    await processes.until(is_so, deadline=30.0)


async def _have_met(nodes: Sequence[Node]) -> bool:
    """Return True if each node has all others as peers, by a key."""
    wanted = f'spegel_members{{kind="keyed"}} {len(nodes) - 1}.0'.encode()
    for node in nodes:
        with Client(node.metrics) as client:
            if wanted not in client.read("/metrics")[1]:
                return False
    return True


async def _find(nodes: Sequence[Node]) -> bool:
    for node in nodes:
        with Client(node.registry) as client:
            if client.read("/v2/app/manifests/1?ns=registry.example")[0] != 200:
                return False
    return True
