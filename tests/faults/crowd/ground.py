"""Four machines that pull an image which nobody has, and what can be seen of who takes it from whom."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spegel_py.inflight.rendezvous import ranked_coordinators
from spegel_py.oci.build import Blob, Image
from tests import images
from tests.benchmarks.flash.crowd import BURST
from tests.benchmarks.flash.mirrors import MIRROR
from tests.integration.cluster import joined, state
from tests.lab import REGISTRY, Lab, Node, start_lab
from tests.processes import run

NODES = 4
SIZE = 60_000_000
"""Bytes of the one layer, unless another size is given."""
RATE = "100mbit"
"""What the registry sends to all of them together: the layer takes five seconds."""

_RECEIVED = re.compile(r"bytes_received:(\d+)")
_SENT = re.compile(r"bytes_acked:(\d+)")
_PEER = re.compile(r"/p2p/(12D3\w+)")


class Ground:
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
        """The blob that takes long."""
        return max(self.image.blobs, key=lambda blob: len(blob.data))

    async def renew(self) -> None:
        """Make new machines of all, with a new image at the registry that none of them knows of."""
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
        """Return how many bytes have come to a machine over the connections that it has to the registry now."""
        host = REGISTRY.partition(":")[0]
        return _total(_RECEIVED, await run(*node.namespace.prefix, "ss", "-tniH", "dst", host))

    async def given(self, node: Node) -> int:
        """Return how many bytes a mirror has sent to others over the connections that there are now."""
        others = [
            word
            for other in self.nodes
            if other is not node
            for word in ("or", "dst", other.address)
        ][1:]
        found = await run(
            *node.namespace.prefix, "ss", "-tniH", "sport", "=", ":5000", "and", "(", *others, ")"
        )
        return _total(_SENT, found)

    async def leader(self) -> Node:
        """Return who fetches the most from the registry now."""
        counts = {node.address: await self.fetched(node) for node in self.nodes}
        return max(self.nodes, key=lambda node: counts[node.address])

    async def inner(self) -> Node:
        """Return a machine that takes from one and gives to another; AssertionError where there is none."""
        leader = await self.leader()
        for node in self.nodes:
            if node is not leader and await self.given(node) > 1_000_000:
                return node
        raise AssertionError("nobody takes and gives")

    def coordinator(self) -> Node:
        """Return who keeps the book of the layer."""
        names = {self._peer(node): node for node in self.nodes}
        [first] = ranked_coordinators(self.layer.digest, names, 1)
        return names[first]

    def _peer(self, node: Node) -> str:
        assert node.spegel
        return str(_PEER.findall(node.spegel.output)[0])

    def right(self, node: Node) -> bool:
        """Say whether the machine holds the whole image, with the right bytes."""
        return all(_holds(node.daemon.path(blob.digest), blob) for blob in self.image.blobs)


def left_open(node: Node) -> int:
    """Return how many files of content a mirror has open, and watches."""
    if node.spegel is None or (pid := node.spegel.pid) is None:
        return 0
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += "io.containerd.content" in str(descriptor.readlink())
            found += Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().count("inotify wd:")
        except OSError:  # closed meanwhile
            continue
    return found


async def in_flight(node: Node) -> int:
    """Return in how many flights a mirror takes part still."""
    if node.spegel is None or node.spegel.pid is None:
        return 0
    return len((await state(node))["in_flight"])


def _holds(path: Path, blob: Blob) -> bool:
    try:
        return blob.digest.matches(path.read_bytes())
    except OSError:
        return False


def _total(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(int, pattern.findall(text)))


@asynccontextmanager
async def start_ground(*, size: int = SIZE) -> AsyncIterator[Ground]:
    """Start the machines and the registry; everything is ended and removed at the end."""
    async with start_lab(nodes=NODES) as lab, lab.registry.namespace.throttled(RATE, burst=BURST):
        yield Ground(lab, size)
