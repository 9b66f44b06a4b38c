"""A port with TLS: the same limits as without, and nobody without a certificate."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spegel_py.oci.digest import Digest
from spegel_py.registry import connection
from spegel_py.registry.askers import Door
from spegel_py.store.memory_store import MemoryStore
from tests.support.certificates import HOUR, Authority, contexts
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import RawClient

AUTHORITY = Authority()
SMALL, LARGE = b"small", os.urandom(1 << 20) * 12
PATHS = [f"/v2/app/blobs/{Digest.of(data)}?ns=r.io" for data in (SMALL, LARGE)]
MIRRORED = "X-Spegel-Mirrored: true"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return AUTHORITY.write(tmp_path / "tls")


@pytest.fixture
async def node(start: NodeFactory, folder: Path) -> AsyncIterator[Node]:
    store, (server, _) = MemoryStore(), contexts(folder)
    for data in (SMALL, LARGE):
        store.add(data)
    async with start(store=store, tls=lambda: server, needs_tls=True) as running:
        yield running


async def connect(node: Node, context: ssl.SSLContext) -> RawClient:
    client = RawClient(*await asyncio.open_connection("127.0.0.1", node.port, ssl=context))
    node.clients.append(client)
    return client


async def test_a_client_with_a_certificate_is_answered(node: Node, folder: Path) -> None:
    client = await connect(node, contexts(folder)[1])
    for _ in range(2):
        for path, data in zip(PATHS, (SMALL, LARGE), strict=True):
            answer = await client.ask("GET", path, MIRRORED)
            assert (answer.status, answer.body == data) == (200, True)


@pytest.mark.parametrize("fault", ["none", "of another authority", "expired"])
async def test_a_client_without_a_good_certificate_is_hung_up(
    node: Node, folder: Path, tmp_path: Path, fault: str
) -> None:
    """The log has the reason. With TLS 1.3 the client only learns it after its own handshake."""
    context = contexts(folder)[1]
    if fault == "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif fault == "expired":
        AUTHORITY.write(tmp_path / "other", since=timedelta(hours=-2), lasts=HOUR)
        context = contexts(tmp_path / "other")[1]
    else:
        Authority(name="other").write(tmp_path / "other", trusted=(AUTHORITY,))
        context = contexts(tmp_path / "other")[1]
    with capture_logs() as logs:
        for _ in range(2):
            client = await connect(node, context)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await client.ask("GET", PATHS[0], MIRRORED)
    [record] = [each for each in logs if each["log_level"] == "warning"]
    assert record["event"] == "connection refused: no TLS with the client"
    assert not node.samples("http_requests_total")


async def test_clients_without_tls_are_refused_but_for_the_own_runtime(node: Node) -> None:
    client = await node.client()
    assert (await client.ask("GET", PATHS[0], MIRRORED)).status == 403
    assert (await client.ask("GET", PATHS[0])).status == 200  # from an address of this host
    assert (await client.ask("GET", PATHS[0], "X-Spegel-Node: other")).status == 403
    assert (await client.ask("GET", "/livez")).status == 200


async def test_the_runtimes_own_port_needs_no_tls(start: NodeFactory) -> None:
    store = MemoryStore()
    store.add(SMALL)
    async with start(store=store, door=Door.RUNTIME, needs_tls=True) as node:
        client = await node.client()
        assert (await client.ask("GET", PATHS[0], "X-Spegel-Node: other")).status == 200


@pytest.mark.parametrize("begun", [b"\x16", b"\x16\x03\x01\x02\x00\x01"], ids=["byte", "more"])
async def test_a_handshake_that_does_not_end_is_hung_up(
    node: Node, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD", 0.3)
    client = await node.client()
    client.writer.write(begun)
    async with asyncio.timeout(5):
        assert await client.reader.read() == b""


@pytest.mark.parametrize("sent", [b"\x16" * 100, b"\x16\x03\x01\x00\x05abcde"])
async def test_bytes_that_are_no_handshake_are_hung_up_on(node: Node, sent: bytes) -> None:
    client = await node.client()
    client.writer.write(sent)
    async with asyncio.timeout(5):
        alert = await client.reader.read()
    assert len(alert) < 20
