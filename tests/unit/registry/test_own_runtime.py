"""Only this node's own runtime is sent to downloads that are still going on: another one may wait
for itself.
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from spegel_py.errors import BlobUnknown
from spegel_py.mirror.pull import Mirror
from tests.unit.registry.conftest import NodeFactory

PATH = f"/v2/app/blobs/sha256:{'0' * 64}"
ANOTHER_HOST = "127.0.0.2"


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
