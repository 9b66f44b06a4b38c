"""The `source` fixture: one contract, run on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
