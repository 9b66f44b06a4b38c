"""The commands of the guides, run on plain hosts as they are written."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.docs.examples import Example, fits
from tests.support.hosts import PlainHost, PlainHosts
from tests.support.processes import CommandFailed

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"

FOLDERS = ("/etc/spegel-py", "/opt/spegel-py", "/var/lib/spegel-py")
"""Folders that the guides make, and remove in the end."""

PATIENCE = 60.0
"""Seconds within which a command prints the page's output. A person looks again, too."""


async def perform(one: Example, lab: PlainHosts, page: str) -> None:
    """Run commands on their hosts, until they succeed and print the output that the page shows.

    Commands without an output on the page are run once.
    """
    if one.event == "the registry is stopped":
        await lab.registry.stop()
    elif one.event == "the registry is back" and lab.registry.process.pid is None:
        await lab.registry.start()
    for address in one.hosts:
        first = problem = await attempt(lab.hosts[address], one)
        end = time.monotonic() + PATIENCE
        while problem is not None and one.prints is not None and time.monotonic() < end:
            await asyncio.sleep(0.5)
            problem = await attempt(lab.hosts[address], one)
        if problem is not None:
            raise AssertionError(
                f"{page}, line {one.line} on {address}: {first}\n"
                f"and at last: {problem}\n{await journals(lab)}"
            )


async def attempt(host: PlainHost, one: Example) -> str | None:
    """Run commands once; returns their failure, or their output if it is not that of the page."""
    try:
        output = await host.shell(one.code, needs_internet=one.needs_internet)
    except CommandFailed as error:
        return f"it fails: {error}"
    if one.prints is None or fits(output, one.prints):
        return None
    return f"it prints:\n{output}"


async def journals(lab: PlainHosts) -> str:
    """Return the ends of the nodes' logs."""
    look = "tail -n 12 /var/log/spegel-py.log 2>&1 || journalctl -n 20 -u spegel-py || true"
    ends = [f"{address}:\n{await host.shell(look)}" for address, host in lab.hosts.items()]
    return "\n".join(ends)
