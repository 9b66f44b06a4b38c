"""What a registry answers from its own content, as clients see it on the wire."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.manifest import OCI_INDEX, OCI_MANIFEST
from spegel_py.store.base import Content
from spegel_py.store.file_access import FileContent
from spegel_py.store.memory_store import MemoryContent, MemoryStore
from spegel_py.transfer.sender import Sender
from tests.support.processes import until
from tests.unit.registry.conftest import Node, NodeFactory

BLOB = bytes(range(256)) * 5000
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
CHILD = {"mediaType": "x/y", "digest": "sha256:" + "a" * 64, "size": 7}
TAG = "/v2/app/manifests/v1?ns=r.io%3A5000"


class FileStore(MemoryStore):
    """A store whose content comes with descriptors of real files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        async with super().open(digest) as content:
            path = self._folder / digest.hex
            path.write_bytes(b"".join([piece async for piece in content.read(0, content.size)]))
        fd = os.open(path, os.O_RDONLY)
        try:
            yield FileContent(fd=fd, size=path.stat().st_size)
        finally:
            os.close(fd)


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path)


def blob(digest: Digest) -> str:
    return f"/v2/app/blobs/{digest}?ns=r.io%3A5000"


async def test_a_blob_is_sent_with_its_headers(start: NodeFactory, store: MemoryStore) -> None:
    """A blob comes with type, length, digest, namespace and the API's version, and without
    compression.
    """
    digest = store.add(BLOB)
    async with start(store=store) as node:
        client = await node.client()
        answer = await client.ask("GET", blob(digest), "Accept-Encoding: gzip, zstd")
        assert (answer.status, answer.body) == (200, BLOB)
        assert {name: value for name, value in answer.headers.items() if name != "date"} == {
            "content-type": "application/octet-stream",
            "content-length": str(len(BLOB)),
            "docker-content-digest": str(digest),
            "accept-ranges": "bytes",
            "oci-namespace": "r.io:5000",
            "docker-distribution-api-version": "registry/2.0",
            "server": "spegel-py",
        }


async def test_head_is_get_without_the_body(start: NodeFactory, store: MemoryStore) -> None:
    """HEAD carries the very headers of GET, for manifests and blobs, and the connection goes on."""
    digest = store.add(BLOB)
    store.add(MANIFEST, "r.io:5000/app:v1")
    async with start(store=store) as node:
        client = await node.client()
        for target in (blob(digest), TAG):
            head, get = await client.ask("HEAD", target), await client.ask("GET", target)
            assert head.status == 200
            assert head.headers | {"date": ""} == get.headers | {"date": ""}
        assert head.headers["content-type"] == OCI_MANIFEST
        assert head.headers["docker-content-digest"] == str(Digest.of(MANIFEST))


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        pytest.param(
            {"schemaVersion": 2, "mediaType": "", "config": CHILD, "layers": [CHILD]},
            OCI_MANIFEST,
            id="empty media type",
        ),
        pytest.param({"mediaType": OCI_INDEX, "manifests": [CHILD]}, OCI_INDEX, id="no version"),
        pytest.param(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [CHILD], "layers": None},
            OCI_INDEX,
            id="null layers",
        ),
    ],
)
async def test_a_manifest_that_runtimes_take_is_passed_on(
    node: Node,
    document: dict[str, object],
    media_type: str,
) -> None:
    """Its bytes are answered as they are, by digest and by tag; the client judges them."""
    data = json.dumps(document).encode()
    digest = node.store.add(data, "r.io:5000/app:v1")
    client = await node.client()
    for target in (f"/v2/app/manifests/{digest}", TAG):
        answer = await client.ask("GET", target)
        assert (answer.status, answer.body) == (200, data)
        assert answer.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("asked", "start_", "length"),
    [
        pytest.param("bytes=5-9", 5, 5, id="closed"),
        pytest.param("bytes=1000000-", 1_000_000, 280_000, id="open"),
        pytest.param("bytes=-300000", 980_000, 300_000, id="suffix"),
        pytest.param("bytes=10-999999999", 10, 1_279_990, id="cut at the end"),
    ],
)
async def test_a_range_is_a_206(
    start: NodeFactory, store: MemoryStore, asked: str, start_: int, length: int
) -> None:
    """A single range is answered with exactly those bytes."""
    digest = store.add(BLOB)
    async with start(store=store) as node:
        answer = await (await node.client()).ask("GET", blob(digest), f"Range: {asked}")
    assert answer.status == 206
    assert answer.body == BLOB[start_ : start_ + length]
    assert answer.headers["content-range"] == f"bytes {start_}-{start_ + length - 1}/{len(BLOB)}"
    assert answer.headers["docker-content-digest"] == str(digest)


async def test_a_range_that_means_everything_is_a_200(node: Node) -> None:
    """`bytes=0-` is answered with 200 and no Content-Range, which containerd 2.1 needs."""
    answer = await (await node.client()).ask("GET", blob(node.store.add(BLOB)), "Range: bytes=0-")
    assert (answer.status, answer.body) == (200, BLOB)
    assert "content-range" not in answer.headers


async def test_a_range_outside_is_a_416_with_the_size(node: Node) -> None:
    """A range beyond the end tells the size, as OCI JSON."""
    answer = await (await node.client()).ask(
        "GET", blob(node.store.add(BLOB)), "Range: bytes=9999999-"
    )
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{len(BLOB)}"
    assert answer.error["code"] == "SIZE_INVALID"


async def test_an_empty_blob_is_sent(node: Node) -> None:
    """Content of no bytes is content."""
    answer = await (await node.client()).ask("GET", blob(node.store.add(b"")))
    assert (answer.status, answer.headers["content-length"]) == (200, "0")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((), id="none"),
        pytest.param((f"Accept: {OCI_INDEX}", f"Accept: {OCI_MANIFEST}"), id="several lines"),
        pytest.param(("Accept: text/html",), id="excludes it"),
    ],
)
async def test_a_manifest_comes_as_what_it_is(node: Node, lines: tuple[str, ...]) -> None:
    """Whatever Accept says, a manifest is sent with its own type, as registries do."""
    node.store.add(MANIFEST, "r.io:5000/app:v1")
    answer = await (await node.client()).ask("GET", TAG, *lines)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (
        200,
        MANIFEST,
        OCI_MANIFEST,
    )


async def test_a_digest_needs_no_namespace(node: Node) -> None:
    """A digest without `ns` is served, and no namespace is echoed."""
    digest = node.store.add(MANIFEST)
    answer = await (await node.client()).ask("GET", f"/v2/app/manifests/{digest}")
    assert answer.status == 200
    assert "oci-namespace" not in answer.headers


async def test_manifests_and_blobs_are_not_mistaken(node: Node) -> None:
    """A manifest asked as a blob, and the reverse, are unknown."""
    manifest, other = node.store.add(MANIFEST), node.store.add(b'{"json": "but no manifest"}')
    client = await node.client()
    as_blob = await client.ask("GET", blob(manifest))
    as_manifest = await client.ask("GET", f"/v2/app/manifests/{other}")
    assert (as_blob.status, as_blob.error["code"]) == (404, "BLOB_UNKNOWN")
    assert (as_manifest.status, as_manifest.error["code"]) == (404, "MANIFEST_UNKNOWN")


async def test_what_is_nowhere_is_a_404(node: Node) -> None:
    """Content that neither this node nor a peer has is unknown, with the attempts made."""
    client = await node.client()
    for target, code in ((blob(Digest.of(b"x")), "BLOB_UNKNOWN"), (TAG, "MANIFEST_UNKNOWN")):
        answer = await client.ask("GET", target)
        assert (answer.status, answer.error["code"]) == (404, code)
        assert answer.error["detail"] == {"attempts": 0}
        head = await client.ask("HEAD", target)
        assert (head.status, head.headers["content-length"]) == (
            404,
            answer.headers["content-length"],
        )


async def test_a_store_that_is_away_is_a_404(node: Node) -> None:
    """When the daemon is down the runtime is sent upstream: never a 500."""
    digest = node.store.add(BLOB)
    node.store.leave()
    answer = await (await node.client()).ask("GET", blob(digest))
    assert (answer.status, answer.error["code"]) == (404, "BLOB_UNKNOWN")


class Vanishing(MemoryStore):
    """Content that is gone between stat and open."""

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        self.remove(digest)
        async with super().open(digest) as content:
            yield content


async def test_content_that_vanishes_is_a_404(start: NodeFactory) -> None:
    """Garbage collection between stat and open is the same as not having it."""
    async with start(store=Vanishing()) as node:
        for data in (BLOB, MANIFEST):
            answer = await (await node.client()).ask("GET", blob(node.store.add(data)))
            assert answer.status == 404


class Breaking(MemoryStore):
    """Content whose source breaks after a while."""

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        async with super().open(digest) as content:
            yield _BreakingContent(
                b"".join([piece async for piece in content.read(0, content.size)])
            )


class _BreakingContent(MemoryContent):
    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        yield self.data[start : start + 300_000]
        raise StoreUnavailable("the disk is gone")


async def test_a_broken_source_ends_short_and_clean(start: NodeFactory) -> None:
    """When the disk fails in mid-body the client gets what was read and then a FIN; it counts as a
    cut.
    """
    data = b"x" * 5_000_000
    async with start(store=Breaking()) as node:
        client = await node.client()
        answer = await client.ask("GET", blob(node.store.add(data)))
        assert answer.headers["content-length"] == str(len(data))
        assert answer.body == data[:300_000]
        assert await client.end() == b""
        assert await node.counted("spegel_mirror_misses_total") == {("cut",): 1}


async def test_filters_keep_images_from_being_served(start: NodeFactory) -> None:
    """What a filter matches is 404 for clients and peers, even though it is here."""
    store = MemoryStore()
    store.add(MANIFEST, "r.io:5000/app:v1", "r.io:5000/app:v2")
    async with start(store=store, filters=Filters(patterns=[re.compile(r"app:v1$")])) as node:
        client = await node.client()
        assert (await client.ask("GET", TAG)).status == 404
        assert (await client.ask("GET", TAG, "X-Spegel-Mirrored: true")).status == 404
        assert (await client.ask("GET", TAG.replace("v1", "v2"))).status == 200
        assert await node.counted("spegel_mirror_misses_total") == {("filtered",): 1}


async def test_a_client_that_does_not_read_is_dropped(start: NodeFactory) -> None:
    """A client that stops reading is cut off after the bound, and counted; what it was sent ends
    with a FIN.
    """
    async with start(client_timeout=0.2) as node:
        digest = node.store.add(b"x" * 64_000_000)
        client = await node.client()
        client.writer.write(f"GET {blob(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(5):
            while not node.samples("spegel_mirror_misses_total"):
                await asyncio.sleep(0.02)
        assert await node.counted("spegel_mirror_misses_total") == {("client_gone",): 1}
        assert len(await client.end()) < 64_000_000


async def test_no_descriptor_is_left_behind(start: NodeFactory, tmp_path: Path) -> None:
    """Clients that leave in mid-body leave no descriptor of the content behind."""

    def held() -> int:
        links = (
            str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
        )
        return sum(str(tmp_path) in link for link in links)

    store = FileStore(tmp_path)
    digest = store.add(b"x" * 32_000_000)
    async with start(store=store) as node:
        for _ in range(5):
            client = await node.client()
            client.writer.write(f"GET {blob(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await client.reader.readexactly(1000)
            client.writer.transport.abort()
        async with asyncio.timeout(5):
            while node.samples("spegel_mirror_misses_total") != {("client_gone",): 5}:
                await asyncio.sleep(0.01)
        assert held() == 0


async def test_a_client_that_leaves_with_the_last_byte_has_had_it_all(
    start: NodeFactory, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hang up before the thread that moved the bytes has told so: that is a hit, and no
    client gone.
    """

    async def send(sender: Sender, *given: Any, **options: Any) -> None:
        await original(sender, *given, **options)
        await asyncio.Event().wait()

    original = Sender.send
    monkeypatch.setattr(Sender, "send", send)
    digest = store.add(BLOB)
    async with start(store=store) as node:
        client = await node.client()
        answer = await client.ask("GET", blob(digest))
        assert answer.body == BLOB
        client.close()

        async def is_counted() -> bool:
            return bool(node.samples("spegel_mirror_requests_total"))

        await until(is_counted)
        assert await node.counted("spegel_mirror_requests_total") == {("r.io:5000", "hit"): 1}
