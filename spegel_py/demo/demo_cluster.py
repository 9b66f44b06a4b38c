"""The nodes of the demonstration: started and joined together, and stopped whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from spegel_py.demo.demo_image import DemoImage
from spegel_py.demo.demo_node import DemoNode, PortTaken
from spegel_py.demo.node_log import peer_ids
from spegel_py.pull.session import first_error
from spegel_py.store.layout import LayoutWriter
from spegel_py.tools.threads import run

STARTS = 3
"""Starts of a node, each on other ports, after another program took one of its ports."""

ANSWER = 2.0
"""Seconds for a node to answer a probe."""

Fill = Callable[[LayoutWriter], DemoImage]
"""Puts an image into a node's layout. Blocks. Raises ConfigError for an unusable image."""


class DemoCluster:
    """Nodes on this machine, which find each other through the first node."""

    def __init__(self, *, folder: Path, session: aiohttp.ClientSession) -> None:
        self._folder = folder
        self.session = session
        self.nodes: list[DemoNode] = []

    def __repr__(self) -> str:
        return f"<Cluster {self.nodes}>"

    async def prepare(self, count: int, *, name: str = "node {}") -> list[DemoNode]:
        """Return `count` more nodes with empty layouts, not started;

        `name` is formatted with a number.
        """
        begin = len(self.nodes) + 1
        names = [name.format(number) for number in range(begin, begin + count)]
        added = [DemoNode(name=each, folder=self._folder / each.replace(" ", "")) for each in names]
        self.nodes += added
        await run(_make_layouts, added)
        return added

    async def start(self, nodes: Sequence[DemoNode]) -> None:
        """Start nodes at the same time, and wait until they serve. Raises DemoFailed."""
        for left in reversed(range(STARTS)):
            for node in nodes:
                node.start(bootstrap=self.nodes[0].ports.router)
            try:
                return await together(*(node.ready(self.session) for node in nodes))
            except PortTaken:  # the others know the first node's port, so all start again
                if not left:
                    raise
                await asyncio.gather(*(node.stop() for node in nodes))
                for node in nodes:
                    node.move()
        return None

    async def start_with(self, fill: Fill) -> DemoImage:
        """Start all nodes while `fill` runs for the first node's layout; return the image."""
        found: list[DemoImage] = []

        async def put() -> None:
            found.append(await run(fill, LayoutWriter(root=self.nodes[0].layout, is_durable=False)))

        await together(put(), self.start(self.nodes))
        return found[0]

    @property
    def running(self) -> list[DemoNode]:
        """The nodes that run."""
        return [node for node in self.nodes if node.pid is not None]

    async def joined(self, nodes: Iterable[DemoNode], *, records: int) -> None:
        """Wait until the nodes are connected to all running nodes, and have `records` records.

        Raises DemoFailed.
        """
        peers = len(self.running) - 1
        await together(*(node.joined(self.session, peers=peers, records=records) for node in nodes))

    def name_of(self, address: str) -> str:
        """Return the name of the node whose registry listens at the address."""
        return next((node.name for node in self.nodes if node.address == address), address)

    def by_id(self) -> dict[str, DemoNode]:
        """Return the nodes by their peer ids."""
        return {peer: node for node in self.nodes for peer in peer_ids(node.events())}

    async def stop(self) -> None:
        """Stop all nodes at the same time."""
        await asyncio.gather(*(node.stop() for node in self.nodes))


async def together(*waits: Coroutine[None, None, None]) -> None:
    """Wait for all coroutines.

    The first error cancels the remaining coroutines, and is raised without a group.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for wait in waits:
                tasks.create_task(wait)
    except BaseExceptionGroup as group:
        raise first_error(group) from group


def _make_layouts(nodes: Sequence[DemoNode]) -> None:
    for node in nodes:
        LayoutWriter.create(root=node.layout, is_durable=False)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[DemoCluster]:
    """Give a cluster without nodes; at the end of the block all its nodes are stopped."""
    timeout = aiohttp.ClientTimeout(total=ANSWER)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        made = DemoCluster(folder=folder, session=session)
        try:
            yield made
        finally:
            await made.stop()
