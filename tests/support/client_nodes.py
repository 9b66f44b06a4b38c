"""Two nodes for clients other than containerd, and the files that `configuration` writes for them.

The registries of the images do not exist, so every answer is a node's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node, layout
from tests.support import processes
from tests.support.images import image

APP = image("clients")
HUB = image("hub")
NAME, HUB_NAME = "registry.example/team/app:1", "docker.io/library/tool:2"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    """A node that holds two images, and a node that holds none and asks the first one."""
    folder = tmp_path_factory.mktemp("clients")
    held = layout(folder / "layout", {NAME: APP, HUB_NAME: HUB})
    holder = Node(folder=folder / "holder", store=held)
    other = Node(
        folder=folder / "other",
        store={**layout(folder / "empty", {}), "default-registry": "docker.io"},
        bootstrap=holder.router,
    )
    try:
        await holder.start()
        await other.start()

        async def have_met() -> bool:
            with Client(other.metrics) as client:
                _, body = client.read("/debug/state")
            return any(peer["keys"] for peer in json.loads(body)["peers"])

        await processes.until(have_met, deadline=60.0)
        yield [holder, other]
    finally:
        await other.process.end()
        await holder.process.end()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: podman allows 50 characters, and a socket 108."""
    with tempfile.TemporaryDirectory(prefix="it-") as folder:
        yield Path(folder)


def configure(runtime: str, file: Path, *options: str) -> None:
    """Run `spegel-py configuration` for a runtime."""
    command = [sys.executable, "-m", "spegel_py", "configuration", "--runtime", runtime]
    subprocess.run([*command, "--runtime-file", str(file), *options], check=True)
