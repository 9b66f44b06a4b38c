"""Nodes in one process that share their pulls: real registries and coordinators over memory ports.

A Node plays its runtime: it writes an ingest as containerd does. The bytes come from its own mirror
while that answers, else from upstream. Where a body ends short, it resumes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from spegel_py.inflight.in_flight_sharing import InFlightSharing
from spegel_py.inflight.rules import InFlightRules
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.scores import Scores
from spegel_py.oci.digest import Digest
from spegel_py.registry.app import create_app
from spegel_py.registry.ingest_reader import IngestReader
from spegel_py.registry.server import serve
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork, MemoryRouter
from spegel_py.store.memory_store import MemoryIngests, MemoryStore
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender
from tests.support.routers import free_port

TALKATIVE = InFlightRules(leader_heartbeat=0.05, heartbeat=0.05, backoff=0.1, takeover_grace=0.05)
"""Shorter times between heartbeats and for waits on each other; the other deadlines are as usual.

So no node seems dead on a busy machine.
"""

HASTY = replace(TALKATIVE, leader_stall=0.5, stall=0.3, stall_per_level=0.02)
"""For tests in which a node stalls."""

PIECE = 64 * 1024


class Upstream:
    """The registry: gives `data` a piece at a time, as the test allows it, and counts its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.digest = Digest.of(data)
        self.open = 0  # bytes that may be given
        self.refuses: set[str] = set()
        self.asked: list[tuple[str, int]] = []
        self.given = 0
        self._changed = asyncio.Event()

    def allow(self, count: int | None = None) -> None:
        """Allow the first `count` bytes to be sent, or all bytes without a count."""
        self.open = len(self.data) if count is None else count
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, name: str, start: int) -> AsyncIterator[bytes]:
        """Yield the allowed bytes from `start` on.

        Raises ConnectionError for a node in `refuses`.
        """
        self.asked.append((name, start))
        if name in self.refuses:
            raise ConnectionError("403")
        while start < len(self.data):
            changed = self._changed
            if start >= self.open:
                await changed.wait()
                continue
            piece = self.data[start : min(start + PIECE, self.open)]
            self.given += len(piece)
            start += len(piece)
            yield piece
            await asyncio.sleep(0)


@dataclass
class Node:
    """One node, with its runtime and the answers that the runtime got."""

    peer: Peer
    sharing: InFlightSharing
    ingests: MemoryIngests
    store: MemoryStore
    upstream: Upstream
    metrics: NodeMetrics
    network: MemoryNetwork
    router: MemoryRouter
    stack: AsyncExitStack
    got: bytearray = field(default_factory=bytearray)
    answers: list[int] = field(default_factory=list)

    async def pull(self) -> bool:
        """Pull as containerd does; True once the content is here, False if upstream refused."""
        digest = self.upstream.digest
        self.got.clear()
        self.ingests.begin(digest, total=len(self.upstream.data))
        try:
            while len(self.got) < len(self.upstream.data):
                before = len(self.got)
                await self._from_mirror(digest)
                if len(self.got) == before:
                    await self._from_upstream(digest)
        except ConnectionError:
            self.ingests.end(digest)
            return False
        assert digest.matches(self.got)
        self.store.add(bytes(self.got))
        self.ingests.end(digest)
        await self.router.advertise([str(digest)])
        return True

    async def _from_mirror(self, digest: Digest) -> None:
        reader, writer = await asyncio.open_connection(self.peer.host, self.peer.port)
        try:
            resume = f"Range: bytes={len(self.got)}-\r\n" if self.got else ""
            writer.write(
                f"GET /v2/app/blobs/{digest}?ns=r.io HTTP/1.1\r\nHost: x\r\n{resume}\r\n".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.answers.append(int(head.split()[1]))
            if self.answers[-1] not in (200, 206):
                return
            length = re.search(r"content-length: (\d+)", head.lower())
            assert length is not None
            end = len(self.got) + int(length[1])
            assert end == len(self.upstream.data)
            while len(self.got) < end and (piece := await reader.read(PIECE)):
                self._take(digest, piece)
        finally:
            writer.close()

    async def _from_upstream(self, digest: Digest) -> None:
        async for piece in self.upstream.read(self.peer.id, len(self.got)):
            self._take(digest, piece)

    def _take(self, digest: Digest, piece: bytes) -> None:
        self.got += piece
        self.ingests.write(digest, piece)

    async def hold(self, *contents: bytes) -> None:
        """Store contents as if they had been pulled long ago."""
        for content in contents:
            self.store.add(content)
        await self.router.advertise([str(Digest.of(content)) for content in contents])

    async def read_manifest(self, digest: Digest) -> bytes:
        """Ask the mirror for a manifest, as a runtime does before its layers."""
        reader, writer = await asyncio.open_connection(self.peer.host, self.peer.port)
        try:
            writer.write(
                f"GET /v2/app/manifests/{digest}?ns=r.io HTTP/1.1\r\nConnection: close\r\n".encode()
            )
            writer.write(b"Host: x\r\n\r\n")
            return (await reader.read()).partition(b"\r\n\r\n")[2]
        finally:
            writer.close()

    def served(self) -> float:
        """Return the bytes sent from this node, to its runtime and to peers."""
        return self.count("spegel_served_bytes_total", source="local")

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def die(self) -> None:
        """End the node at once; its runtime may go on."""
        self.network.leave(self.peer)
        await self.stack.aclose()


@asynccontextmanager
async def start_node(
    name: str, network: MemoryNetwork, upstream: Upstream, *, rules: InFlightRules = TALKATIVE
) -> AsyncIterator[Node]:
    """Run a node of this name."""
    async with AsyncExitStack() as stack:
        store, ingests, metrics = MemoryStore(), MemoryIngests(), NodeMetrics()
        deadlines = Deadlines(connect=10, first_byte=10, stall=10, resolve=10, manifest=10, blob=10)
        me = Peer(name, "127.0.0.1", free_port())
        router, requests = network.join(me), network.requests(me)
        sharing = InFlightSharing(
            requests=requests,
            ingests=ingests,
            store=store,
            rules=rules,
            on_lead=metrics.in_flight.led,
            advertised=lambda: network.members.get(me, {}),
        )
        metrics.in_flight.watch(sharing.counts)
        sender = stack.enter_context(Sender(threads=1))
        client = await stack.enter_async_context(HTTPUpstream(deadlines=deadlines))
        mirror = Mirror(
            router=router,
            upstream=client,
            metrics=metrics.mirror,
            deadlines=deadlines,
            scores=Scores(),
            random=Random(1),
            parents=sharing,
        )
        ingest_reader = IngestReader(
            ingests=ingests,
            size_of=mirror.size_of,
            source_of=sharing.parent_of,
            takes_part=sharing.takes_part,
        )
        app = create_app(
            store=store,
            sender=sender,
            mirror=mirror,
            metrics=metrics.server,
            pull_log=PullLog(metrics=metrics.pulls),
            ready=lambda: {"ready": True, "reasons": []},
            ingest_reader=ingest_reader,
        )
        await stack.enter_async_context(serve(app, me.authority, drain=0.05))
        await stack.enter_async_context(sharing.running())
        yield Node(me, sharing, ingests, store, upstream, metrics, network, router, stack)
