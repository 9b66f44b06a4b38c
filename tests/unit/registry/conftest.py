"""Registries over real sockets, alone and two together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.tag_book import TagBook
from spegel_py.registry.app import create_app
from spegel_py.registry.connection import TlsContext
from spegel_py.registry.server import serve
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender
from tests.unit.registry.raw import RawClient

PATIENT = Deadlines(connect=10, first_byte=10, stall=10, resolve=10, manifest=10, blob=10)
"""All nodes of a test share one event loop, on a machine that may be busy: only a test of a
deadline has a short one.
"""


@dataclass
class Node:
    """A registry in this process, with all that is behind it."""

    peer: Peer
    port: int
    store: Any
    metrics: NodeMetrics
    network: MemoryNetwork
    pull_log: PullLog
    clients: list[RawClient] = field(default_factory=list)

    async def client(self) -> RawClient:
        """Return a new raw connection to it."""
        client = await RawClient.connect(self.port)
        self.clients.append(client)
        return client

    async def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """Return `samples` once all requests are over: a client has its last byte before that is
        counted.
        """
        async with asyncio.timeout(10):
            while self.samples("http_requests_inflight"):
                await asyncio.sleep(0.01)
        return self.samples(name)

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric that are not zero, by their label values."""
        return {
            tuple(sample.labels.values()): sample.value
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == name and sample.value
        }


NodeFactory = Callable[..., AbstractAsyncContextManager[Node]]


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def start(network: MemoryNetwork) -> NodeFactory:
    """Return a context manager that runs a node; keywords go to create_app."""

    @asynccontextmanager
    async def run(
        name: str = "node",
        *,
        store: Any = None,
        reason: str | None = None,
        drain: float = 0.2,
        deadlines: Deadlines = PATIENT,
        router: Any = None,
        tls: TlsContext | None = None,
        tag_book: TagBook | None = None,
        **options: Any,
    ) -> AsyncIterator[Node]:
        def ready() -> dict[str, object]:
            return {"ready": reason is None, "reasons": [reason] if reason else []}

        store, metrics, me = store or MemoryStore(), NodeMetrics(), Peer(name, "127.0.0.1", 1)
        with Sender(threads=2) as sender:
            async with HTTPUpstream(deadlines=deadlines) as upstream:
                mirror = Mirror(
                    router=router or network.join(me),
                    upstream=upstream,
                    metrics=metrics.mirror,
                    deadlines=deadlines,
                    scores=Scores(),
                    random=Random(1),
                    tags=tag_book,
                )
                pull_log = PullLog(metrics=metrics.pulls)
                app = create_app(
                    store=store,
                    sender=sender,
                    mirror=mirror,
                    metrics=metrics.server,
                    ready=ready,
                    pull_log=pull_log,
                    tag_book=tag_book,
                    **options,
                )
                async with serve(app, "127.0.0.1:0", drain=drain, tls=tls) as port:
                    node = Node(
                        Peer(name, "127.0.0.1", port), port, store, metrics, network, pull_log
                    )
                    try:
                        yield node
                    finally:
                        for client in node.clients:
                            client.close()

    return run


@pytest.fixture
async def node(start: NodeFactory) -> AsyncIterator[Node]:
    async with start() as running:
        yield running
