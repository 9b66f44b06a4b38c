"""The answers to requests of other nodes, and the images that are taken at their request."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry

from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.replicas import keep_queue
from spegel_py.replicas.drain_state import DrainCause, DrainState
from spegel_py.replicas.keep_messages import (
    ImageKept,
    ImageTaking,
    ImageUsed,
    KeepRefused,
    KeepRequest,
    RefusalReason,
    SickNoted,
    SickNotice,
    UsedRequest,
    decode_answer,
    encode,
)
from spegel_py.replicas.keep_queue import (
    MAX_PENDING,
    MAX_PENDING_PER_PEER,
    KeeperSnapshot,
    KeepQueue,
)
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_rules import DiskUse, ReplicaRules
from spegel_py.replicas.taker import ImageTaker
from spegel_py.store.base import ReplicaReason
from spegel_py.store.memory_replicas import MemoryReplicas
from spegel_py.store.memory_store import MemoryStore
from tests.support.image_server import image_server
from tests.support.images import image
from tests.support.processes import until

PEER = "12D3KooWpeer"
REPOSITORY = "registry.example/team/app"
GB = 1_000_000_000


class Queue:
    """A queue with its taker and its store."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:9",
        *,
        filters: Filters = EVERYTHING,
        drain: DrainState | None = None,
        **rules: object,
    ) -> None:
        self.store = MemoryStore()
        self.replicas = MemoryReplicas(store=self.store)
        self.registry = CollectorRegistry()
        self.queue = KeepQueue(
            taker=ImageTaker(replicas=self.replicas, mirror=url),
            rules=ReplicaRules(**{"floor": 2, **rules}),  # type: ignore[arg-type]
            filters=filters,
            metrics=ReplicaMetrics(self.registry),
            drain=drain,
        )

    def ask(self, request: KeepRequest, peer: str = PEER) -> object:
        return decode_answer(self.queue.handle(peer, encode(request)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def is_idle(self) -> bool:
        return not self.queue.pending


def request_of(digest: Digest, *, size: int = 1000, tag: str = "1") -> KeepRequest:
    return KeepRequest(
        manifest=digest,
        root=digest,
        repository=REPOSITORY,
        tags={tag: 5.0},
        size=size,
        reason=ReplicaReason.FLOOR,
        used=time.time() - 60,
    )


def of_image(one: Image) -> KeepRequest:
    return request_of(one.root.digest, size=sum(len(blob.data) for blob in one.blobs))


def refused(answer: object) -> RefusalReason:
    assert isinstance(answer, KeepRefused)
    assert answer.retry > 0
    return answer.why


async def test_an_accepted_image_is_taken() -> None:
    """The peer is told that it is being taken, and later that it is kept."""
    one = image(layers=2)
    async with image_server(one) as server:
        here = Queue(server.url)
        records: list[Mapping[str, object]] = []
        here.queue.on_action = records.append
        async with here.running():
            assert here.ask(of_image(one)) == ImageTaking(0, 0)
            await until(here.is_idle)
        assert here.ask(of_image(one)) == ImageKept()
        assert server.clients == {"replica"}
    [record] = records
    assert (record["action"], record["outcome"], record["peer"]) == ("take", "done", PEER)
    [replica] = here.replicas.held().values()
    assert dict(replica.names) == {f"{REPOSITORY}:1": 5.0}
    assert time.time() - 65 < replica.used < time.time() - 55
    labels = {"reason": "floor", "outcome": "taken"}
    assert here.registry.get_sample_value("spegel_replica_takes_total", labels) == 1
    labels = {"reason": "floor", "source": "peer"}
    received = here.registry.get_sample_value("spegel_replica_received_bytes_total", labels)
    assert received == sum(len(blob.data) for blob in one.blobs)


async def test_a_failed_image_is_refused_for_a_while() -> None:
    """The reason is told, and nothing is left behind."""
    one = image()
    async with image_server(one) as server:
        layer = one.blobs[-1]
        server.content[str(layer.digest)] = layer.data[:-1] + b"?"
        here = Queue(server.url)
        async with here.running():
            here.ask(of_image(one))
            await until(here.is_idle)
        answer = here.ask(of_image(one))
    assert refused(answer) is RefusalReason.FAILED
    assert isinstance(answer, KeepRefused)
    assert answer.detail == "wrong-bytes"
    assert not here.store.keys


async def test_a_repeated_request_tells_the_progress() -> None:
    """It is taken once."""
    one = image(layers=1, size=3_000_000)
    async with image_server(one) as server:
        here = Queue(server.url)
        for _ in range(3):
            assert here.ask(of_image(one)) == ImageTaking(0, 0)
        async with here.running():
            await until(here.is_idle)
        assert server.got(one.root.digest) == [0]


DISK = DiskUse(total=100 * GB, used=50 * GB, alone=9 * GB)


@pytest.mark.parametrize(
    ("rules", "disk", "filters", "size", "reason"),
    [
        ({"floor": 0}, DISK, EVERYTHING, 1, RefusalReason.OFF),
        ({"patterns": (re.compile("other"),)}, DISK, EVERYTHING, 1, RefusalReason.FILTERED),
        ({}, DISK, Filters(patterns=[re.compile("team")]), 1, RefusalReason.FILTERED),
        ({"max_image": 10}, DISK, EVERYTHING, 11, RefusalReason.TOO_LARGE),
        ({}, DISK, EVERYTHING, 2 * GB, RefusalReason.DISK),
        ({}, DiskUse(total=100, used=75), EVERYTHING, 1, RefusalReason.DISK),
    ],
    ids=["off", "not selected", "filtered", "too large", "limit", "nearly full"],
)
def test_a_request_beyond_this_nodes_settings_is_refused(
    rules: dict[str, object], disk: DiskUse, filters: Filters, size: int, reason: RefusalReason
) -> None:
    """Whatever the other node says."""
    here = Queue(filters=filters, **rules)  # type: ignore[arg-type]
    here.queue.snapshot = KeeperSnapshot(disk=disk)
    assert refused(here.ask(request_of(Digest.of(b"1"), size=size))) is reason


def test_what_is_queued_counts_as_taken_room() -> None:
    """Two images that fit alone do not both fit."""
    here = Queue()
    here.queue.snapshot = KeeperSnapshot(disk=DISK)
    size = int(0.6 * GB)
    assert here.ask(request_of(Digest.of(b"1"), size=size)) == ImageTaking(0, 0)
    assert refused(here.ask(request_of(Digest.of(b"2"), size=size))) is RefusalReason.DISK


def test_one_peer_gets_only_a_part_of_the_queue() -> None:
    """Neither one peer nor all together can fill this node's memory."""
    here = Queue()
    for number in range(MAX_PENDING_PER_PEER):
        here.ask(request_of(Digest.of(b"a%d" % number)))
    assert refused(here.ask(request_of(Digest.of(b"b")))) is RefusalReason.FULL
    for number in range(MAX_PENDING - MAX_PENDING_PER_PEER):
        here.ask(request_of(Digest.of(b"c%d" % number)), f"{PEER}{number // 5}")
    assert refused(here.ask(request_of(Digest.of(b"d")), "other")) is RefusalReason.FULL


def test_a_node_tells_when_its_runtime_had_an_image() -> None:
    """So that keepers know what is still wanted."""
    here, digest = Queue(), Digest.of(b"1")
    here.queue.snapshot = KeeperSnapshot(used={digest: 42.0})
    for asked, used in ((digest, 42.0), (Digest.of(b"2"), 0.0)):
        answer = decode_answer(here.queue.handle(PEER, encode(UsedRequest(asked))))
        assert answer == ImageUsed(used)


async def test_a_fault_does_not_end_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next image is taken."""
    one, two = image("a"), image("b")
    async with image_server(one, two) as server:
        here = Queue(server.url)
        take = ImageTaker.take

        async def fail_once(self: ImageTaker, *given: object, **named: object) -> object:
            monkeypatch.setattr(ImageTaker, "take", take)
            raise RuntimeError("a bug")

        monkeypatch.setattr(ImageTaker, "take", fail_once)
        monkeypatch.setattr(keep_queue, "SLOTS", 1)
        async with here.running():
            here.ask(of_image(one))
            here.ask(of_image(two))
            await until(here.is_idle)
    assert set(here.replicas.held()) == {two.root.digest}


def test_a_node_that_drains_keeps_nothing_more() -> None:
    """What it has already it still tells."""
    drain = DrainState()
    here = Queue(drain=drain)
    drain.causes = {DrainCause.COMMAND: "by uid 0"}
    assert refused(here.ask(request_of(Digest.of(b"app")))) is RefusalReason.DRAINING
    here.queue.snapshot = KeeperSnapshot(held=frozenset({Digest.of(b"app")}))
    assert here.ask(request_of(Digest.of(b"app"))) == ImageKept()


def test_a_peer_that_expects_a_failure_is_heard() -> None:
    here, heard = Queue(), []
    here.queue.on_sick = lambda peer, why: heard.append((peer, why))
    assert decode_answer(here.queue.handle(PEER, encode(SickNotice("slow")))) == SickNoted()
    assert heard == [(PEER, "slow")]
