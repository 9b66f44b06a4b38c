"""Whole spegel-py nodes as processes on loopback, started as a person would start them."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.build import Image
from tests.benchmarks import client, machine
from tests.benchmarks.routers import free_port
from tests.support import images
from tests.support.containerd import Daemon, running_daemon
from tests.support.processes import Process, until

IMAGES = 20
"""Images of the containerd beside which a node is weighed."""


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds from exec to the first good answer of each probe; a node without peers is never
    ready.
    """

    livez: float
    readyz: float
    cpu: float
    """CPU seconds used until ready: what does not depend on how busy the machine is."""


class Node:
    """One node; `store` are the flags that say what it serves."""

    def __init__(
        self, *, folder: Path, store: Mapping[str, object], bootstrap: int | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.registry, self.router, self.metrics = (free_port() for _ in range(3))
        flags = {
            **store,
            "registry-addr": f"127.0.0.1:{self.registry}",
            "router-addr": f"127.0.0.1:{self.router}",
            "metrics-addr": f"127.0.0.1:{self.metrics}",
            "static-bootstrap-peers": f"/ip4/127.0.0.1/tcp/{bootstrap or self.router}",
            "data-dir": folder / "data",
        }
        options = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        self.process = Process(
            command=[sys.executable, "-m", "spegel_py", "registry", *options],
            log=folder / "spegel.log",
            environment={"PYTHONPATH": str(machine.ROOT)},
        )

        self.started: Started | None = None

    def __repr__(self) -> str:
        return f"<Node {self.registry} {self.process!r}>"

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None, f"{self!r} has ended:\n{self.process.output[-2000:]}"
        return pid

    async def start(self) -> None:
        """Start it and wait until it is live."""
        await self.process.start(lambda: client.answers(self.registry, "/livez"), deadline=60)

    async def join(self) -> None:
        """Start it and wait until it is live and has a peer; `started` says how long that took."""
        start = time.monotonic()
        await self.start()
        livez = time.monotonic() - start
        await until(lambda: client.answers(self.registry, "/readyz"), deadline=60)
        self.started = Started(livez, time.monotonic() - start, machine.cpu_seconds(self.pid))


async def told(nodes: Sequence[Node], records: int, *, deadline: float = 60.0) -> None:
    """Wait until these nodes together hold this many records of others; fails with what each one
    holds.
    """
    held: list[float] = []

    async def are_told() -> bool:
        held[:] = [await client.records_held(node.metrics) for node in nodes]
        return sum(held) == records

    try:
        await until(are_told, deadline=deadline, pause=0.1)
    except TimeoutError:
        errors = [
            line for node in nodes for line in node.process.output.splitlines() if '"error"' in line
        ]
        raise AssertionError(
            f"after {deadline} s not {records} records: {held}; logged: {errors[:3]}"
        ) from None


def layout(root: Path, these: Mapping[str, Image]) -> dict[str, object]:
    """Write a layout of these images; returns the flags of a node that serves it."""
    images.write_layout(root, dict(these))
    return {"oci-layout": root}


def records(these: Mapping[str, Image]) -> int:
    """Return how many keys a node with these images advertises: every blob, every tag and every
    repository once.
    """
    blobs = {blob.digest for one in these.values() for blob in one.blobs}
    return len(blobs) + len(these) + len({name.rpartition(":")[0] for name in these})


@asynccontextmanager
async def cluster(
    contents: Sequence[Mapping[str, Image]], *, flags: Mapping[str, object] | None = None
) -> AsyncIterator[list[Node]]:
    """Run one node for each set of images, started one after the other, each joined through the
    first.

    Yields when each has a peer; what they hold may still be on its way to the others.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        nodes: list[Node] = []
        for number, these in enumerate(contents):
            root = folder / f"node{number}"
            store = layout(root / "layout", these) | dict(flags or {})
            node = Node(folder=root, store=store, bootstrap=nodes[0].router if nodes else None)
            stack.push_async_callback(node.process.end)
            # the first has nobody to be ready with
            await (node.join() if nodes else node.start())
            nodes.append(node)
        yield nodes


@asynccontextmanager
async def containerd() -> AsyncIterator[Daemon]:
    """Run a containerd that has IMAGES images."""
    async with running_daemon() as daemon:
        await daemon.load(
            {
                f"registry.test/bench/app:{each}": images.image(f"app {each}")
                for each in range(IMAGES)
            }
        )
        yield daemon
