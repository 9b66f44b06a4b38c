"""The `labs` fixture: clusters in a box, ended with the test. `checkout`: a copy of the project."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.lab import Lab, start_lab

ROOT = Path(__file__).parents[2]

Labs = Callable[[int], Awaitable[Lab]]


@pytest.fixture
async def labs() -> AsyncIterator[Labs]:
    """Start a lab with so many nodes: `lab = await labs(3)`."""
    async with AsyncExitStack() as stack:

        async def start(nodes: int) -> Lab:
            return await stack.enter_async_context(start_lab(nodes=nodes))

        yield start


@pytest.fixture
async def lab(labs: Labs) -> Lab:
    """A lab with two nodes."""
    return await labs(2)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A bare checkout: the files that git knows, as they are now."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder
