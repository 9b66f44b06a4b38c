"""The `source` fixture runs one contract on every store. Tests may ask for an event loop too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.contract.sources import ContainerdSource, LayoutSource, MemorySource, Source

CONTAINERD = (pytest.mark.root, pytest.mark.containerd)

SOURCES = [
    "memory",
    "layout",
    pytest.param("containerd by path", marks=CONTAINERD),
    pytest.param("containerd by gRPC", marks=CONTAINERD),
]


@pytest.fixture(params=SOURCES)
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Source]:
    """A source with nothing in it yet."""
    made = await make_source(request.param, tmp_path)
    yield made
    await made.close()


async def make_source(kind: str, folder: Path) -> Source:
    """Return a source of this kind; its files are in `folder`."""
    if kind == "memory":
        return MemorySource()
    if kind == "layout":
        return LayoutSource(folder)
    return await ContainerdSource.start(is_mounted=kind == "containerd by path")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on asyncio's loop, and what asks for it on uvloop's too: a node runs on that."""
    marker = item.get_closest_marker("asyncio")
    if marker is None or "loop_factories" not in marker.kwargs:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
