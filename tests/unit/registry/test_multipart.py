"""Several ranges in one request, from this node's content and through a peer."""

from __future__ import annotations

import email.policy
import json
from collections.abc import AsyncIterator
from email.parser import BytesParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.mirror.verification import MAX_BUFFERED
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.registry.multipart import Multipart
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import Answer
from tests.unit.registry.test_relayed import Pair

SMALL = bytes(range(251)) * 400
LARGE = bytes(range(251)) * (MAX_BUFFERED // 251 + 1000)
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()


@pytest.fixture
async def pair(start: NodeFactory) -> AsyncIterator[Pair]:
    async with start("a") as a, start("b") as b:
        yield Pair(a, b)


def blob(digest: Digest) -> str:
    return f"/v2/app/blobs/{digest}?ns=r.io"


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    """Return the Content-Range and the bytes of each part, as a client reads them."""
    assert answer.status == 206
    assert len(answer.body) == int(answer.headers["content-length"])
    assert "content-range" not in answer.headers
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    found = []
    for part in message.iter_parts():
        assert part.get_content_type() == "application/octet-stream"
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((str(part["Content-Range"]), content))
    return found


def expected(data: bytes, *spans: tuple[int, int]) -> list[tuple[str, bytes]]:
    """Return the parts with these first and last bytes."""
    size = len(data)
    return [(f"bytes {first}-{last}/{size}", data[first : last + 1]) for first, last in spans]


@pytest.mark.parametrize("where", ["local", "relayed"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_several_ranges_are_a_multipart_answer(pair: Pair, where: str, data: bytes) -> None:
    """Each part has its bytes and says which they are; the connection goes on after the last."""
    digest = await pair.hold(data)
    client = await (pair.a if where == "local" else pair.b).client()
    end = len(data) - 1
    answer = await client.ask("GET", blob(digest), "Range: bytes=1000-1009,0-9,-5,99999999-")
    assert parts(answer) == expected(data, (0, 9), (1000, 1009), (end - 4, end))
    assert answer.headers["docker-content-digest"] == str(digest)
    assert answer.headers.get("x-spegel-peer") == ("a" if where == "relayed" else None)
    assert (await client.ask("GET", blob(digest))).body == data


@pytest.mark.parametrize("where", ["local", "relayed"])
async def test_one_range_that_remains_is_a_single_one(pair: Pair, where: str) -> None:
    """What touches, and what lies outside, makes no part of its own."""
    digest = await pair.hold(SMALL)
    client = await (pair.a if where == "local" else pair.b).client()
    for asked in ("5-9,10-19", "5-19,99999999-99999999", "5-9,7-19"):
        answer = await client.ask("GET", blob(digest), f"Range: bytes={asked}")
        assert (answer.status, answer.body) == (206, SMALL[5:20])
        assert answer.headers["content-range"] == f"bytes 5-19/{len(SMALL)}"


@pytest.mark.parametrize("where", ["local", "relayed"])
async def test_ranges_outside_are_a_416_with_the_size(pair: Pair, where: str) -> None:
    """As a single one is."""
    digest = await pair.hold(SMALL)
    client = await (pair.a if where == "local" else pair.b).client()
    answer = await client.ask("GET", blob(digest), "Range: bytes=99999990-99999991,99999999-")
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{len(SMALL)}"


async def test_ranges_of_content_that_nobody_has_are_a_404(pair: Pair) -> None:
    """The client goes on to the registry."""
    client = await pair.b.client()
    answer = await client.ask("GET", blob(Digest.of(b"none")), "Range: bytes=0-9,20-29")
    assert (answer.status, answer.error["code"]) == (404, "BLOB_UNKNOWN")


async def test_ranges_of_a_manifest_are_ignored(node: Node) -> None:
    """It is sent whole: no client reads a part of one."""
    digest = node.store.add(MANIFEST)
    target = f"/v2/app/manifests/{digest}?ns=r.io"
    answer = await (await node.client()).ask("GET", target, "Range: bytes=0-1,5-6")
    assert (answer.status, answer.body) == (200, MANIFEST)


async def test_the_record_has_the_ranges_and_all_that_was_asked_of_peers(pair: Pair) -> None:
    """One pull, whose bytes are those of its whole body."""
    digest = await pair.hold(LARGE)
    answer = await (await pair.b.client()).ask("GET", blob(digest), "Range: bytes=0-9,1000-1009")
    await pair.b.counted("spegel_mirror_requests_total")
    (record,) = pair.b.pull_log.find(None, limit=2)
    assert (record["verdict"], record["source"]) == ("hit", "peer")
    assert record["range"] == "bytes=0-9,1000-1009"
    assert record["bytes"]["peer"] == record["length"] == len(answer.body)
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["ok"] * 3


async def test_a_part_that_no_peer_gives_ends_the_answer_short(pair: Pair) -> None:
    """The head is sent by then, so the connection is closed; the record says that it was cut."""
    digest = await pair.hold(LARGE)
    client = await pair.b.client()
    again = client.ask("GET", blob(digest), "Range: bytes=0-9,1000-1009")
    opened, limit = pair.a.store.open, 2

    def open_twice(asked: Digest) -> object:
        nonlocal limit
        limit -= 1
        if not limit:
            pair.a.store.remove(asked)
        return opened(asked)

    pair.a.store.open = open_twice
    answer = await again
    assert answer.status == 206
    assert len(answer.body) < int(answer.headers["content-length"])
    await pair.b.counted("spegel_mirror_requests_total")
    (record,) = pair.b.pull_log.find(None, limit=2)
    assert record["reason"] == "cut"


@given(
    st.lists(st.integers(0, 30), min_size=4, max_size=12, unique=True).map(sorted),
    st.lists(st.integers(0, 40)).map(sorted),
    st.booleans(),
)
def test_a_body_is_the_same_in_pieces_of_any_length(
    bounds: list[int],
    cuts: list[int],
    is_whole: bool,
) -> None:
    """Also where the bytes between the parts are passed to it."""
    data = bytes(range(40))
    ends = zip(bounds[::2], bounds[1::2], strict=False)
    spans = [(first, last - first) for first, last in ends]
    body = Multipart("x/y", len(data), spans, boundary="b")
    passed = [(0, len(data))] if is_whole else spans
    found = b""
    for start, length in passed:
        end = start + length
        at = [start, *(cut for cut in cuts if start < cut < end), end]
        for first, last in pairwise(at):
            found += b"".join(body.pieces(first, data[first:last]))
    head = "--b\r\nContent-Type: x/y\r\nContent-Range: bytes {}-{}/40\r\n\r\n"
    texts = [
        head.format(start, start + length - 1).encode() + data[start : start + length]
        for start, length in spans
    ]
    assert found == b"\r\n".join(texts) + b"\r\n--b--\r\n"
    assert body.length == len(found)
