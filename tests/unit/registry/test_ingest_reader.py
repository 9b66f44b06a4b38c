"""A node answers its peers with what its runtime is fetching, while it comes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.registry.ingest_reader import IngestReader
from spegel_py.store.base import Descriptor, Ingest
from spegel_py.store.memory_store import MemoryIngests, MemoryStore
from tests.support.routers import until
from tests.unit.registry.conftest import Node, NodeFactory

FOLLOWING = "X-Spegel-Mirrored: true\r\nX-Spegel-In-Flight: true"
LARGE = bytes(range(251)) * 10_000
DIGEST = Digest.of(LARGE)
BLOB = f"/v2/app/blobs/{DIGEST}?ns=r.io"
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
SIZES: dict[Digest, int] = {}


@pytest.fixture
def ingests() -> MemoryIngests:
    return MemoryIngests()


@pytest.fixture
async def node(start: NodeFactory, ingests: MemoryIngests) -> AsyncIterator[Node]:
    async with start(ingest_reader=IngestReader(ingests=ingests, size_of=SIZES.get)) as running:
        yield running


async def test_a_peer_gets_a_blob_while_it_grows(node: Node, ingests: MemoryIngests) -> None:
    """Each part reaches the peer as soon as it is written, and the connection goes on after the
    whole.
    """
    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE[:1])
    client = await node.client()
    client.writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: x\r\n{FOLLOWING}\r\n\r\n".encode())
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    assert f"Content-Length: {len(LARGE)}".encode() in head
    assert await client.reader.readexactly(1) == LARGE[:1]
    for start in range(1, len(LARGE), 1_000_000):
        part = LARGE[start : start + 1_000_000]
        ingests.write(DIGEST, part)
        assert await client.reader.readexactly(len(part)) == part
    ingests.end(DIGEST)
    assert (await client.ask("GET", "/v2/")).status == 200


async def test_only_who_was_sent_here_gets_what_grows(node: Node, ingests: MemoryIngests) -> None:
    """Another peer may be one that this node's own runtime waits for."""
    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE)
    client = await node.client()
    assert (await client.ask("GET", BLOB, "X-Spegel-Mirrored: true")).status == 404
    assert (await client.ask("GET", BLOB, FOLLOWING)).status == 200


async def test_who_follows_says_whom_it_takes_the_content_from(
    start: NodeFactory, ingests: MemoryIngests
) -> None:
    """So that nobody takes from a node what that has from it; content that is whole has no source
    any more.
    """
    sources: dict[Digest, str] = {DIGEST: "parent"}
    async with start(
        ingest_reader=IngestReader(ingests=ingests, size_of=SIZES.get, source_of=sources.get)
    ) as node:
        ingests.begin(DIGEST, total=len(LARGE))
        ingests.write(DIGEST, LARGE)
        client = await node.client()
        assert (await client.ask("GET", BLOB, FOLLOWING)).headers["x-spegel-source"] == "parent"
        sources.clear()
        assert "x-spegel-source" not in (await client.ask("GET", BLOB, FOLLOWING)).headers
        sources[DIGEST] = "parent"
        node.store.add(LARGE)
        assert "x-spegel-source" not in (await client.ask("GET", BLOB, FOLLOWING)).headers


async def test_a_peer_gets_the_rest_of_a_blob(node: Node, ingests: MemoryIngests) -> None:
    """A range that begins beyond what is there waits for it."""
    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE[:100])
    client = await node.client()
    client.writer.write(
        f"GET {BLOB} HTTP/1.1\r\nHost: x\r\n{FOLLOWING}\r\nRange: bytes=200-\r\n\r\n".encode()
    )
    await until(lambda: len(ingests.readers(DIGEST)) == 1)
    ingests.write(DIGEST, LARGE[100:])
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert f"Content-Range: bytes 200-{len(LARGE) - 1}/{len(LARGE)}".encode() in head
    assert await client.reader.readexactly(len(LARGE) - 200) == LARGE[200:]


async def test_a_writer_that_stops_ends_the_answer_short(
    node: Node, ingests: MemoryIngests
) -> None:
    """What was there is sent, and then the connection ends without an error of its own."""
    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE[:300_000])
    ingests.end(DIGEST)
    answer = await (await node.client()).ask("GET", BLOB, FOLLOWING)
    assert answer.status == 404  # nobody writes it any more
    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE[:1])
    client = await node.client()
    client.writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: x\r\n{FOLLOWING}\r\n\r\n".encode())
    await client.reader.readuntil(b"\r\n\r\n")
    ingests.write(DIGEST, LARGE[1:300_000])
    ingests.end(DIGEST)
    assert await client.end() == LARGE[:300_000]


async def test_nothing_is_promised_before_the_first_byte(
    node: Node, ingests: MemoryIngests
) -> None:
    """A writer that stops before it, as where upstream refuses, is a 404: then another source can
    be asked.
    """
    ingests.begin(DIGEST, total=len(LARGE))
    client = await node.client()
    client.writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: x\r\n{FOLLOWING}\r\n\r\n".encode())
    await until(lambda: len(ingests.readers(DIGEST)) == 1)
    ingests.end(DIGEST)
    assert (await client.read()).status == 404


async def test_this_nodes_clients_are_not_answered_so(node: Node, ingests: MemoryIngests) -> None:
    """It is their own runtime that fetches: it must not wait for itself."""
    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE)
    assert (await (await node.client()).ask("GET", BLOB)).status == 404


async def test_a_manifest_is_answered_once_it_is_whole(node: Node, ingests: MemoryIngests) -> None:
    """It has its own media type; what proves to be something else is not answered."""
    digest = Digest.of(MANIFEST)
    ingests.begin(digest, total=len(MANIFEST))
    ingests.write(digest, MANIFEST)
    answer = await (await node.client()).ask(
        "GET", f"/v2/app/manifests/{digest}?ns=r.io", FOLLOWING
    )
    assert (answer.status, answer.body, answer.headers["content-type"]) == (
        200,
        MANIFEST,
        OCI_MANIFEST,
    )
    ingests.begin(DIGEST, total=3)
    ingests.write(DIGEST, b"{}\n")
    assert (
        await (await node.client()).ask("GET", f"/v2/app/manifests/{DIGEST}?ns=r.io", FOLLOWING)
    ).status == 404


async def test_the_size_may_come_from_a_manifest(
    node: Node, ingests: MemoryIngests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that does not say how long it will be is followed where a manifest has said it."""
    ingests.begin(DIGEST)
    ingests.write(DIGEST, LARGE)
    client = await node.client()
    assert (await client.ask("GET", BLOB, FOLLOWING)).status == 404
    monkeypatch.setitem(SIZES, DIGEST, len(LARGE))
    assert (await (await node.client()).ask("GET", BLOB, FOLLOWING)).body == LARGE


async def test_what_was_committed_in_between_is_found(start: NodeFactory) -> None:
    """Between a look at the store and one at what is written, content may move from the one to the
    other.
    """
    store = MemoryStore()

    class Committed:
        def has_open(self, digest: Digest) -> bool:
            return False

        def open(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
            store.add(LARGE)
            raise ContentNotFound("it has just been committed")

    async with start(
        store=store, ingest_reader=IngestReader(ingests=Committed(), size_of=SIZES.get)
    ) as node:
        assert (await (await node.client()).ask("GET", BLOB, FOLLOWING)).body == LARGE


async def test_a_peer_waits_while_the_runtime_commits(start: NodeFactory) -> None:
    """containerd moves the file first and writes the record then; a 404 sent the peer upstream."""
    store, ingests, is_part = MemoryStore(), MemoryIngests(), True
    reader = IngestReader(ingests=ingests, size_of=SIZES.get, takes_part=lambda _: is_part)
    async with start(store=store, ingest_reader=reader) as node:
        asking = asyncio.create_task((await node.client()).ask("GET", BLOB, FOLLOWING))
        await asyncio.wait({asking}, timeout=0.2)
        assert not asking.done()
        store.add(LARGE)
        assert (await asking).body == LARGE
        store.remove(DIGEST)
        asking = asyncio.create_task((await node.client()).ask("GET", BLOB, FOLLOWING))
        await asyncio.wait({asking}, timeout=0.2)
        is_part = False  # the download was given up
        assert (await asking).status == 404


async def test_what_is_known_to_grow_is_not_looked_for_in_the_store(
    start: NodeFactory, ingests: MemoryIngests
) -> None:
    """A node of whom many take a layer asks its disk once, not for each of them."""

    class Asked(MemoryStore):
        async def stat(self, digest: Digest) -> Descriptor:
            raise AssertionError("the store was asked")

    ingests.begin(DIGEST, total=len(LARGE))
    ingests.write(DIGEST, LARGE)
    async with (
        start(
            store=Asked(), ingest_reader=IngestReader(ingests=ingests, size_of=SIZES.get)
        ) as node,
        ingests.open(DIGEST),
    ):
        assert (await (await node.client()).ask("GET", BLOB, FOLLOWING)).body == LARGE
