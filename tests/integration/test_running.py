"""A running node has the ports, files and processes that its page tells, and no others."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.integration.cluster import joined, publish
from tests.integration.conftest import Labs
from tests.support.images import image
from tests.support.processes import run

pytestmark = pytest.mark.root

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "running.md").read_text()


async def test_the_page_tells_what_runs(labs: Labs) -> None:
    """After a pull that a peer served: three ports, no child, and only files of the page."""
    lab = await labs(2)
    holder, other = lab.nodes
    for node in lab.nodes:
        await node.start_spegel()
    await joined(holder, other)
    await publish(lab, lab.name("test/running:1"), image("running"), holder)
    assert holder.spegel
    assert holder.spegel.pid
    process = psutil.Process(holder.spegel.pid)
    assert process.children(recursive=True) == []
    lines = (await run(*holder.namespace.prefix, "ss", "-ltnpH")).splitlines()
    own = [line.split()[3] for line in lines if f"pid={process.pid}," in line]
    ports = {int(address.rpartition(":")[2]) for address in own}
    assert ports == {5000, 5001, 9090}
    assert all(f"| TCP {port} |" in PAGE for port in ports)
    data = holder.folder / "data"
    names = {path.name for path in data.rglob("*") if path.is_file()}
    assert "private.key" in names
    assert (data / "private.key").stat().st_mode & 0o777 == 0o600
    assert {name for name in names if f"{name}`" not in PAGE} == set()
    written = {
        Path(one.path)
        for one in process.open_files()
        if one.mode != "r" and not one.path.endswith("spegel.log")
    }
    assert all(path.is_relative_to(data) for path in written), written
