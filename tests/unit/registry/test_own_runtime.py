"""Only this node's own runtime is sent to downloads that are still going on: another one may wait
for itself.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from spegel_py.errors import BlobUnknown, Denied
from spegel_py.mirror.pull import Mirror
from spegel_py.registry.askers import Door, Doorkeeper
from spegel_py.store.memory_store import MemoryStore
from spegel_py.tools.runtime_token import TokenFile, write_tokens
from tests.unit.registry.conftest import NodeFactory

PATH = f"/v2/app/blobs/sha256:{'0' * 64}"
ANOTHER_HOST = "127.0.0.2"
TOKEN = "a" * 64


@pytest.mark.parametrize(
    ("headers", "address", "follows"),
    [
        ({"X-Spegel-Node": "node-1"}, "127.0.0.1", True),
        ({"X-Spegel-Node": "node-1"}, ANOTHER_HOST, True),  # through a host port or a load balancer
        ({"X-Spegel-Node": "node-2"}, "127.0.0.1", False),  # through a load balancer on this host
        ({"X-Spegel-Node": "node-2"}, ANOTHER_HOST, False),
        ({}, "127.0.0.1", True),
        ({}, ANOTHER_HOST, False),
        ({"X-Spegel-Node": ""}, ANOTHER_HOST, False),
    ],
)
async def test_the_own_runtime_is_known_by_its_name_or_its_address(
    headers: dict[str, str],
    address: str,
    follows: bool,
    start: NodeFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name decides; without one a client has to connect from this very host."""
    asked: list[object] = []

    @asynccontextmanager
    async def fetch(_mirror: Mirror, _pull: object, **options: Any) -> AsyncIterator[Any]:
        asked.append(options["follows"])
        raise BlobUnknown("nobody has it")
        yield

    monkeypatch.setattr(Mirror, "fetch", fetch)
    async with start(node="node-1") as node:

        def ask() -> int:
            connection = http.client.HTTPConnection(
                "127.0.0.1", node.port, source_address=(address, 0), timeout=5
            )
            try:
                connection.request("GET", PATH, headers=headers)
                return connection.getresponse().status
            finally:
                connection.close()

        assert await asyncio.to_thread(ask) == 404
    assert asked == [follows]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Spegel-Runtime": TOKEN}, 200),
        ({}, 403),
        ({"X-Spegel-Runtime": "0" * 64, "X-Spegel-Node": "node-1"}, 403),
        ({"X-Spegel-Mirrored": "true"}, 200),  # peers have no token
    ],
    ids=["token", "none", "wrong", "peer"],
)
async def test_with_a_token_the_runtime_is_known_by_it_alone(
    headers: dict[str, str], status: int, start: NodeFactory, tmp_path: Path
) -> None:
    """The refusal says what to do, and probes and the base of the API need no token."""
    store, data = MemoryStore(), b"a blob"
    blob = store.add(data)
    write_tokens(tmp_path / "token", (TOKEN,))
    async with (
        start(store=store, node="node-1", tokens=TokenFile(tmp_path / "token")) as node,
        ClientSession(f"http://127.0.0.1:{node.port}") as client,
    ):
        async with client.get(f"/v2/app/blobs/{blob}", headers=headers) as response:
            assert response.status == status
            body = await response.read()
        for path in ("/v2/", "/livez", "/readyz"):
            async with client.get(path) as response:
                assert response.status == 200
    if status == 403:
        assert json.loads(body)["errors"][0]["code"] == "DENIED"
        assert b"spegel-py configuration --runtime-token FILE" in body
    else:
        assert body == data


async def test_refused_clients_are_logged_once_a_minute(tmp_path: Path) -> None:
    request = make_mocked_request("GET", PATH)
    doorkeeper = Doorkeeper(node="", tokens=TokenFile(tmp_path / "token"), clock=lambda: 0.0)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Denied):
                await doorkeeper.admit(request, is_mirrored=False)
    assert [each["token"] for each in logs] == ["none"]


async def test_the_port_of_peers_asks_no_other_node(
    start: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a client sends there, it gets this node's own content, or a 404."""

    def fetch(_mirror: Mirror, _pull: object, **_options: object) -> None:
        raise AssertionError("the node asked a peer")

    monkeypatch.setattr(Mirror, "fetch", fetch)
    store = MemoryStore()
    held = f"/v2/app/blobs/{store.add(b'a blob')}"
    async with (
        start(store=store, node="node-1", door=Door.PEERS) as node,
        ClientSession(f"http://127.0.0.1:{node.port}") as client,
    ):
        for headers in ({}, {"X-Spegel-Node": "node-1"}, {"X-Spegel-Mirrored": "true"}):
            for path, status in ((held, 200), (PATH, 404)):
                async with client.get(path, headers=headers) as response:
                    assert response.status == status
