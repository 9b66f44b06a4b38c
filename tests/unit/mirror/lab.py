"""A mirror in this process, and pulls through it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from spegel_py.health.health import Health
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.first_response import RelayHead
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.verification import MAX_BUFFERED
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.oci.range import ByteRange
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.transfer.base import ClientGone, Deadlines, Sink
from spegel_py.transfer.client import HTTPUpstream
from tests.unit.mirror.peers import FakePeer

LARGE = bytes(range(251)) * (MAX_BUFFERED // 251 + 1000)
SMALL = b"small" * 1000
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
QUICK = Deadlines(
    connect=0.3, first_byte=0.3, stall=0.3, rate_window=0.3, resolve=0.05, manifest=2.0, blob=4.0
)
"""For tests of a deadline."""
PATIENT = Deadlines(
    connect=10, first_byte=10, stall=10, rate_window=10, resolve=10, manifest=10, blob=10
)
"""For all other tests: peers share the event loop of the mirror, on a machine that may be busy."""
ME = Peer("me", "127.0.0.1", 1)


class MemorySink(Sink):
    """Takes bytes into memory; leaves after `limit` of them."""

    def __init__(self, limit: int | None = None) -> None:
        self.taken = bytearray()
        self._limit = limit

    @property
    def sent(self) -> int:
        return len(self.taken)

    async def write(self, data: bytes) -> None:
        if self._limit is not None and self.sent >= self._limit:
            raise ClientGone("enough")
        self.taken += data


@dataclass
class Lab:
    """A mirror, and peers that advertise the pulled content.

    They are asked in the order in which they were served.
    """

    network: MemoryNetwork
    mirror: Mirror
    metrics: NodeMetrics
    scores: Scores
    stack: AsyncExitStack
    peers: list[Peer] = field(default_factory=list)

    async def serve(self, *fakes: FakePeer) -> None:
        """Start peers; each later one has a lower weight, so that the order is known."""
        for number, fake in enumerate(fakes):
            peer = await self.stack.enter_async_context(fake.serve(f"peer{len(self.peers)}"))
            self.peers.append(peer)
            self.scores.begin(peer)
            self.scores.of(peer).in_flight = 1000**number

    async def pull(
        self, pull: PullRequest, sink: MemorySink | None = None
    ) -> tuple[RelayHead, bytes, bool]:
        """Pull through the mirror; return the head, the bytes, and whether they are complete."""
        sink = sink or MemorySink()
        for peer in self.peers:
            await self.network.join(peer).advertise([pull.key])
        async with self.mirror.fetch(pull) as relay:
            complete = await relay.send(sink) if not pull.head else True
            return relay.head, bytes(sink.taken), complete

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a counter; 0 if nothing was counted."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def attempts(self) -> dict[str, float]:
        """Return the number of requests to peers by outcome."""
        return {
            sample.labels["outcome"]: sample.value
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "spegel_peer_attempts_total"
        }


@asynccontextmanager
async def start_lab(
    *, deadlines: Deadlines = PATIENT, health: Health | None = None, **options: Any
) -> AsyncIterator[Lab]:
    """Run a mirror that knows no peers yet; `options` go to it."""
    network, metrics, scores = MemoryNetwork(), NodeMetrics(), Scores(health=health)
    router = network.join(ME)
    async with AsyncExitStack() as stack, HTTPUpstream(deadlines=deadlines) as upstream:
        mirror = Mirror(
            router=router,
            upstream=upstream,
            metrics=metrics.mirror,
            deadlines=deadlines,
            scores=scores,
            router_name="memory",
            **{"random": Random(1)} | options,
        )
        yield Lab(network, mirror, metrics, scores, stack)


def blob(data: bytes, asked: ByteRange | None = None, *, head: bool = False) -> PullRequest:
    return PullRequest(
        head=head,
        kind=Kind.BLOB,
        registry="r.io",
        repository="app",
        reference=Digest.of(data),
        range=asked,
    )


def manifest(
    reference: Digest | str, *, head: bool = False, asked: ByteRange | None = None
) -> PullRequest:
    return PullRequest(
        head=head,
        kind=Kind.MANIFEST,
        registry="r.io",
        repository="app",
        reference=reference,
        range=asked,
        accept=(OCI_MANIFEST,),
    )


def manifest_peer(**fields: Any) -> FakePeer:
    fake = FakePeer(MANIFEST, media_type=OCI_MANIFEST, digest=Digest.of(MANIFEST))
    return replace(fake, requests=[], **fields)
