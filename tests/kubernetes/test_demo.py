"""`make demo-kubernetes` as a person sees it: what it prints, and that nothing is left, also after
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.deploy.chart import ROOT
from tests.support.processes import until

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.timeout(3600),
]  # the first test builds Kubernetes, which takes minutes


@asynccontextmanager
async def demonstration(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """Start the demonstration, whose files are below the folder; give its process and its log."""
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.kubernetes.demo"),
            cwd=ROOT,
            env=dict(os.environ) | {"TMPDIR": str(folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        yield process, log
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def made_by(process: asyncio.subprocess.Process, folder: Path) -> list[str]:
    """Return the names of the namespaces, files, mounts and cgroups that a demonstration has made
    and not removed.
    """
    network = re.compile(rf".*-{process.pid:x}[0-9a-f]{{4}}")
    found = [str(path) for path in Path("/run/netns").glob("*") if network.fullmatch(path.name)]
    found += [str(path) for path in folder.iterdir() if path.name != "log"]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    commands = (path / "cmdline" for path in Path("/proc").glob("[0-9]*"))
    return found + [str(path) for path in commands if str(folder) in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has just ended
        return ""


async def test_it_shows_where_each_node_got_the_image(tmp_path: Path) -> None:
    """The first node has it from the registry, the others from nodes, and nothing is left."""
    async with demonstration(tmp_path) as (process, log):
        status = await process.wait()
    output = log.read_text()
    assert status == 0, output
    rows = re.findall(
        r"^(node\d) +(registry|other nodes) +([\d.]+m?s) +(\d+)$", output, re.MULTILINE
    )
    assert [(node, where, int(size) > 0) for node, where, _, size in rows] == [
        ("node1", "registry", False),
        ("node2", "other nodes", True),
        ("node3", "other nodes", True),
    ], output
    assert made_by(process, tmp_path) == []


async def test_ctrl_c_takes_everything_away(tmp_path: Path) -> None:
    """In the middle of the chart's installation, with status 130."""
    async with demonstration(tmp_path) as (process, log):

        async def installs() -> bool:
            return "installing the chart" in log.read_text()

        await until(installs, deadline=600.0, unless=lambda: process.returncode is not None)
        assert made_by(process, tmp_path) != []
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            assert await process.wait() == 130
    assert made_by(process, tmp_path) == []
