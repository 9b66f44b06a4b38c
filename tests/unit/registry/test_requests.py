"""Requests that are not pulls, or not even requests: what a client is told, and whether it can go
on.
"""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from spegel_py.oci.digest import Digest
from spegel_py.tools.basic_auth import Credentials
from tests.unit.registry.conftest import Node, NodeFactory

BLOB = f"/v2/app/blobs/{Digest.of(b'x')}"


@pytest.mark.parametrize("target", ["/v2/", "/v2", "http://x/v2/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_base_is_200(node: Node, method: str, target: str) -> None:
    """`/v2/` says that this is a registry."""
    answer = await (await node.client()).ask(method, target)
    assert answer.status == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        pytest.param("/", 404, "UNSUPPORTED", id="root"),
        pytest.param("/v1/", 404, "UNSUPPORTED", id="v1"),
        pytest.param("/v2/_catalog", 404, "UNSUPPORTED", id="catalog"),
        pytest.param("/v2/app/tags/list", 404, "UNSUPPORTED", id="tags"),
        pytest.param("/v2/App/manifests/v1?ns=r.io", 400, "NAME_INVALID", id="name"),
        pytest.param(
            "/v2/a/%2e%2e/%2e%2e/etc/manifests/v1?ns=r.io",
            400,
            "NAME_INVALID",
            id="encoded traversal",
        ),
        pytest.param("/v2/a/../../etc/manifests/v1?ns=r.io", 400, "NAME_INVALID", id="traversal"),
        pytest.param("/v2/a%2fb/manifests/v1?ns=r.io", 400, "NAME_INVALID", id="encoded slash"),
        pytest.param("/v2/a%ff/manifests/v1?ns=r.io", 400, "NAME_INVALID", id="not utf-8"),
        pytest.param("/v2//manifests/v1?ns=r.io", 400, "NAME_INVALID", id="empty segment"),
        pytest.param("/v2/app/manifests/v1", 404, "MANIFEST_UNKNOWN", id="tag without ns"),
        pytest.param("/v2/app/manifests/v1?ns=%2e%2e", 400, "NAME_INVALID", id="bad ns"),
        pytest.param("/v2/app/blobs/sha256:xyz", 400, "DIGEST_INVALID", id="digest"),
    ],
)
async def test_bad_targets_are_told_apart(node: Node, target: str, status: int, code: str) -> None:
    """Each bad target gets its own status and code as OCI JSON, and the connection can be used
    again.
    """
    client = await node.client()
    answer = await client.ask("GET", target)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert (await client.ask("GET", "/v2/")).status == 200


async def test_a_bad_range_is_refused(node: Node) -> None:
    """A malformed byte range is 416 as OCI JSON."""
    answer = await (await node.client()).ask("GET", BLOB, "Range: bytes=5-1")
    assert (answer.status, answer.error["code"]) == (416, "SIZE_INVALID")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("target", [BLOB, "/v2/app/blobs/uploads/", "/livez"])
async def test_other_methods_are_405(node: Node, method: str, target: str) -> None:
    """Pushing, deleting and the like are unsupported, with what is allowed."""
    client = await node.client()
    answer = await client.ask(method, target)
    assert (answer.status, answer.error["code"]) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "GET, HEAD"
    assert (await client.ask("GET", "/v2/")).status == 200


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        pytest.param(("Content-Length: 5",), b"hello", id="length"),
        pytest.param(("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n", id="chunked"),
    ],
)
async def test_a_get_with_a_body_is_refused_and_the_connection_lives(
    node: Node, lines: tuple[str, ...], body: bytes
) -> None:
    """A body where none belongs is 400; it is read and thrown away, so the next request works."""
    client = await node.client()
    answer = await client.ask("GET", BLOB, *lines, body=body)
    assert (answer.status, answer.error["code"]) == (400, "UNSUPPORTED")
    assert (await client.ask("GET", "/v2/")).status == 200


async def test_a_body_is_not_invited(node: Node) -> None:
    """`Expect: 100-continue` is answered with the refusal, not with an invitation."""
    answer = await (await node.client()).ask(
        "POST", BLOB, "Content-Length: 5", "Expect: 100-continue"
    )
    assert answer.status == 405


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"rubbish\r\n\r\n", 400, id="rubbish"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, id="TLS"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="asterisk"),
        pytest.param(b"GET /v2/ HTTP/9.9\r\n\r\n", 400, id="version"),
        pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400, id="header"),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400, id="nul in a header"
        ),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, id="length"
        ),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n",
            400,
            id="smuggling",
        ),
        pytest.param(
            b"GET /v2/" + b"a" * 4100 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            431,
            id="target over the bound",
        ),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 4100 + b"\r\n\r\n",
            431,
            id="field over the bound",
        ),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 64 + b"\r\n",
            431,
            id="one field too many",
        ),
        pytest.param(
            b"GET /v2/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, id="long target"
        ),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            431,
            id="long field",
        ),
        pytest.param(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
            431,
            id="header flood",
        ),
    ],
)
async def test_what_is_no_request_is_answered_as_oci_json(
    node: Node, data: bytes, status: int
) -> None:
    """What the HTTP parser itself refuses is OCI JSON too; all of the answer arrives, and then a
    FIN.
    """
    client = await node.client()
    answer = await client.send(data)
    assert (answer.status, answer.error["code"]) == (status, "UNSUPPORTED")
    assert answer.headers["server"] == "spegel-py"
    assert answer.headers["connection"] == "close"
    assert await client.end() == b""
    assert (await (await node.client()).ask("GET", "/v2/")).status == 200


async def test_a_request_in_pieces_is_a_request(node: Node) -> None:
    """A head that comes byte by byte is answered like any other."""
    client = await node.client()
    for byte in b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n":
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.read()).status == 200


async def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    """Requests sent without waiting get their answers one after the other."""
    client = await node.client()
    requests = [
        f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n" for target in ("/v2/", "/nowhere", "/v2/")
    ]
    client.writer.write("".join(requests).encode())
    assert [(await client.read()).status for _ in range(3)] == [200, 404, 200]


async def test_http_1_0_is_served(node: Node) -> None:
    """An old client gets its answer and the end of the connection."""
    client = await node.client()
    assert (await client.send(b"GET /v2/ HTTP/1.0\r\n\r\n")).status == 200
    assert await client.end() == b""


async def test_the_probes(start: NodeFactory) -> None:
    """`/livez` is 200; `/readyz` is 200 when ready, else 500 with the reasons as JSON; HEAD is told
    the same.
    """
    async with start() as node:
        client = await node.client()
        assert (await client.ask("GET", "/livez")).status == 200
        answer = await client.ask("HEAD", "/readyz")
        assert (answer.status, answer.body) == (200, b"")
    async with start(reason="no peer is connected") as node:
        client = await node.client()
        assert (await client.ask("GET", "/livez")).status == 200
        answer = await client.ask("GET", "/readyz")
        assert answer.status == 500
        assert json.loads(answer.body) == {"ready": False, "reasons": ["no peer is connected"]}
        assert (await client.ask("HEAD", "/readyz")).status == 500


async def test_a_node_that_a_restart_would_help_is_not_alive(start: NodeFactory) -> None:
    """`/livez` is 500 with the reasons when supervision says so."""
    async with start(live=lambda: {"live": False, "reasons": ["router-hung"]}) as node:
        client = await node.client()
        answer = await client.ask("GET", "/livez")
        assert (answer.status, json.loads(answer.body)["reasons"]) == (500, ["router-hung"])
        assert (await client.ask("HEAD", "/livez")).status == 500
        assert (await client.ask("GET", "/readyz")).status == 200


async def test_a_failing_handler_is_a_500_in_oci_form(start: NodeFactory) -> None:
    """A bug is an internal error as OCI JSON, without a traceback, and the next request works."""
    async with start() as node:
        node.store.resolve = None
        answer = await (await node.client()).ask("GET", "/v2/app/manifests/v1?ns=r.io")
        assert (answer.status, answer.error["code"]) == (500, "UNKNOWN")
        assert (await (await node.client()).ask("GET", "/v2/")).status == 200


SECRET = Credentials(username="user", password="pässword")


def basic(text: str) -> str:
    return "Authorization: Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        pytest.param((), 401, id="nothing"),
        pytest.param((basic("user:pässword"),), 200, id="right"),
        pytest.param((basic("user:wrong"),), 401, id="wrong password"),
        pytest.param((basic("other:pässword"),), 401, id="wrong user"),
        pytest.param((basic("user:pässwordx"),), 401, id="longer"),
        pytest.param(("Authorization: Bearer abc",), 401, id="other scheme"),
        pytest.param(("Authorization: Basic ***",), 401, id="no base64"),
        pytest.param(("Authorization: Basic",), 401, id="empty"),
    ],
)
async def test_credentials_are_asked_for(
    start: NodeFactory, lines: tuple[str, ...], status: int
) -> None:
    """With credentials set, only their bearer gets in.

    Nobody is challenged: containerd would answer with the password that its user has for the
    upstream registry.
    """
    async with start(credentials=SECRET) as node:
        client = await node.client()
        answer = await client.ask("GET", "/v2/", *lines)
        assert answer.status == status
        if status == 401:
            assert "www-authenticate" not in answer.headers
            assert answer.error["code"] == "UNAUTHORIZED"
        assert (await client.ask("GET", "/livez")).status == 200


def test_credentials_do_not_show() -> None:
    """Neither name nor password is in the repr; the header made from them is accepted."""
    assert "user" not in repr(SECRET)
    assert SECRET.accept(SECRET.header)
