"""The nodes together: started, joined, and all ended by their ids whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from spegel_py.demo.content import Content
from spegel_py.demo.journal import peer_ids
from spegel_py.demo.node import Node, PortTaken
from spegel_py.pull.session import first_error
from spegel_py.store.layout import LayoutWriter
from spegel_py.tools.threads import run

STARTS = 3
"""Times that a node is started on other ports when another program took one of its own."""

ANSWER = 2.0
"""Seconds for a node to answer a probe."""

Fill = Callable[[LayoutWriter], Content]
"""Puts an image into a node's layout. Blocks. Raises ConfigError for an image that is no use."""


class Cluster:
    """Nodes on this machine, the first of which the others find each other through."""

    def __init__(self, *, folder: Path, session: aiohttp.ClientSession) -> None:
        self._folder = folder
        self.session = session
        self.nodes: list[Node] = []

    def __repr__(self) -> str:
        return f"<Cluster {self.nodes}>"

    async def prepare(self, count: int, *, name: str = "node {}") -> list[Node]:
        """Return so many more nodes, with empty layouts, not started yet; each has its number in its `name`."""
        begin = len(self.nodes) + 1
        names = [name.format(number) for number in range(begin, begin + count)]
        added = [Node(name=each, folder=self._folder / each.replace(" ", "")) for each in names]
        self.nodes += added
        await run(_make_layouts, added)
        return added

    async def start(self, nodes: Sequence[Node]) -> None:
        """Start nodes at the same time, and wait until they serve. Raises DemoFailed."""
        for left in reversed(range(STARTS)):
            for node in nodes:
                node.start(bootstrap=self.nodes[0].ports.router)
            try:
                return await together(*(node.ready(self.session) for node in nodes))
            except PortTaken:  # the others were told the first one's port: all start anew
                if not left:
                    raise
                await asyncio.gather(*(node.stop() for node in nodes))
                for node in nodes:
                    node.move()
        return None

    async def start_with(self, fill: Fill) -> Content:
        """Start all nodes while the image is being put into the first one's layout; return the image."""
        found: list[Content] = []

        async def put() -> None:
            found.append(await run(fill, LayoutWriter(root=self.nodes[0].layout, is_durable=False)))

        await together(put(), self.start(self.nodes))
        return found[0]

    @property
    def running(self) -> list[Node]:
        """The nodes that run."""
        return [node for node in self.nodes if node.pid is not None]

    async def joined(self, nodes: Iterable[Node], *, records: int) -> None:
        """Wait until these know all the other nodes that run, and so many records of theirs. Raises DemoFailed."""
        peers = len(self.running) - 1
        await together(*(node.joined(self.session, peers=peers, records=records) for node in nodes))

    def name_of(self, address: str) -> str:
        """Return the name of the node whose registry listens there."""
        return next((node.name for node in self.nodes if node.address == address), address)

    def by_id(self) -> dict[str, Node]:
        """Return the nodes by their peer ids."""
        return {peer: node for node in self.nodes for peer in peer_ids(node.events())}

    async def stop(self) -> None:
        """End all of them at the same time."""
        await asyncio.gather(*(node.stop() for node in self.nodes))


async def together(*waits: Coroutine[None, None, None]) -> None:
    """Wait for all; the first that fails ends the others, and its error is raised by itself."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for wait in waits:
                tasks.create_task(wait)
    except BaseExceptionGroup as group:
        raise first_error(group) from group


def _make_layouts(nodes: Sequence[Node]) -> None:
    for node in nodes:
        LayoutWriter.create(root=node.layout, is_durable=False)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Give a cluster without nodes yet, and end every node at the end."""
    timeout = aiohttp.ClientTimeout(total=ANSWER)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        made = Cluster(folder=folder, session=session)
        try:
            yield made
        finally:
            await made.stop()
