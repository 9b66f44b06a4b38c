"""Four machines that pull a new image, and the observation of the paths its bytes take."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.build import Blob, Image
from tests.benchmarks.flash.crowd import BURST
from tests.benchmarks.flash.mirrors import MIRROR
from tests.integration.cluster import joined, state
from tests.support import images
from tests.support.lab import REGISTRY, Lab, Node, start_lab
from tests.support.processes import run

NODES = 4
SIZE = 60_000_000
"""Bytes of the only layer, unless another size is given."""
RATE = "100mbit"
"""The registry's rate to all machines together: the layer takes five seconds."""
HOST = REGISTRY.partition(":")[0]
"""The registry's address."""

_RECEIVED = re.compile(r"bytes_received:(\d+)")
_SENT = re.compile(r"bytes_acked:(\d+)")
_PEER = re.compile(r"/p2p/(12D3\w+)")


class CrowdCluster:
    """The machines, and the image of the round, whose layer has `size` bytes."""

    def __init__(self, lab: Lab, size: int) -> None:
        self.lab = lab
        self._size = size
        self.image: Image = images.image("none")
        self.reference = ""

    @property
    def nodes(self) -> list[Node]:
        return self.lab.nodes

    @property
    def layer(self) -> Blob:
        """The largest blob of the image."""
        return max(self.image.blobs, key=lambda blob: len(blob.data))

    async def renew(self) -> None:
        """Start all nodes without content, and push a new image."""
        await asyncio.gather(*(self._renew(node) for node in self.nodes))
        await joined(*self.nodes)
        seed = secrets.token_hex(8)
        self.image = await asyncio.to_thread(images.image, seed, layers=1, size=self._size)
        self.reference = self.lab.name(f"crowd/app:{seed}")
        await self.lab.registry.push(self.reference, self.image)

    async def _renew(self, node: Node) -> None:
        if node.spegel:
            await node.spegel.end()
        await node.daemon.stop()
        if (node.folder / "root").exists():
            node.daemon.forget()
        await node.daemon.start()
        node.write_hosts_toml(mirror=MIRROR)
        await node.start_spegel(share_in_flight="true")

    async def fetched(self, node: Node) -> int:
        """Return the bytes that a machine received over its open connections to the registry."""
        return _total(_RECEIVED, await run(*node.namespace.prefix, "ss", "-tniH", "dst", HOST))

    async def served(self, node: Node) -> int:
        """Return the bytes that a mirror sent over its open connections to other machines."""
        others = [
            word
            for other in self.nodes
            if other is not node
            for word in ("or", "dst", other.address)
        ][1:]
        sockets = await run(
            *node.namespace.prefix, "ss", "-tniH", "sport", "=", ":5000", "and", "(", *others, ")"
        )
        return _total(_SENT, sockets)

    async def leader(self) -> Node:
        """Return the machine that fetches the most from the registry now."""
        counts = {node.address: await self.fetched(node) for node in self.nodes}
        return max(self.nodes, key=lambda node: counts[node.address])

    async def inner_follower(self) -> Node:
        """Return a machine that receives from a peer and serves another peer.

        Raises AssertionError if there is none.
        """
        leader = await self.leader()
        for node in self.nodes:
            if node is not leader and await self.served(node) > 1_000_000:
                return node
        raise AssertionError("no follower serves another machine")

    async def coordinator(self) -> Node:
        """Return the machine that coordinates the pulls of the layer."""
        names = {self._peer(node): node for node in self.nodes}
        [first] = ranked_nodes(self.layer.digest, names, 1)
        return names[first]

    def _peer(self, node: Node) -> str:
        assert node.spegel
        return str(_PEER.findall(node.spegel.output)[0])

    def copies(self) -> float:
        """Return how often the registry sent the layer in this round."""
        path = f"/blobs/{self.layer.digest}"
        sent = sum(
            request.size
            for request in self.lab.registry.requests("GET")
            if request.path.partition("?")[0].endswith(path)
        )
        return sent / len(self.layer.data)


async def left_open(node: Node) -> int:
    """Return the resources of a pull that a mirror still holds.

    These are open content files, inotify watches, and digests in flight.
    """
    if node.spegel is None or (pid := node.spegel.pid) is None:
        return 0
    found = len((await state(node))["in_flight"])
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += "io.containerd.content" in str(descriptor.readlink())
            found += Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().count("inotify wd:")
        except OSError:  # closed meanwhile
            continue
    return found


def _total(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(int, pattern.findall(text)))


@asynccontextmanager
async def start_cluster(*, size: int = SIZE) -> AsyncIterator[CrowdCluster]:
    """Start the machines and the registry; everything is ended and removed at the end."""
    async with start_lab(nodes=NODES) as lab, lab.registry.namespace.throttled(RATE, burst=BURST):
        yield CrowdCluster(lab, size)
