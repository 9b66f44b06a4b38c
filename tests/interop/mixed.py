"""A lab in which some nodes run spegel-py and the last one the real Spegel, all in one DHT."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from tests.integration.cluster import finds, metric
from tests.support.lab import Lab, Node, start_lab, until
from tests.support.processes import Process

SPEGEL = os.environ.get("SPEGEL_BIN", "")
"""The binary to stand beside; without one there is nothing to test."""


@dataclass
class Mixed:
    """The nodes of ours, and the one of Spegel's with its process; every containerd asks its own
    mirror first.
    """

    lab: Lab
    ours: list[Node]
    theirs: Node
    spegel: Process

    async def heal(self) -> None:
        """Start what does not run, and wait until everybody knows everybody."""
        for node in self.ours:
            if node.spegel is None or node.spegel.pid is None:
                await node.start_spegel()
        if self.spegel.pid is None:
            self.spegel = spegel_process(self.theirs, await _peer_id(self.ours[0]))
            await self.spegel.start(partial(self.theirs.answers, "/livez"))
        await until(self._all_know_all, deadline=60, pause=0.1)

    async def have_theirs_tell_all(self) -> None:
        """Start Spegel again where it goes by containerd's events of content: before 2.1 it tells
        tags alone live.
        """
        if await self.theirs.daemon.version() < (2, 1):
            await self.spegel.end()
            await self.heal()

    async def kill(self, node: Node) -> None:
        """End a node's mirror as a crash does."""
        process = self.spegel if node is self.theirs else node.spegel
        assert process
        await process.end(signal.SIGKILL)

    async def _all_know_all(self) -> bool:
        counts = [await metric(node, "spegel_connected_peers") for node in self.ours]
        return all(count == len(self.ours) for count in counts) and await self.theirs.answers(
            "/readyz"
        )


@asynccontextmanager
async def start_mixed(ours: int) -> AsyncIterator[Mixed]:
    """Start a lab with so many nodes of ours and one of Spegel's."""
    async with start_lab(nodes=ours + 1) as lab:
        *mine, theirs = lab.nodes
        for node in lab.nodes:
            node.write_hosts_toml(mirror="http://127.0.0.1:5000")
        mixed = Mixed(lab, mine, theirs, spegel_process(theirs, ""))
        try:
            await mixed.heal()
            yield mixed
        finally:
            await mixed.spegel.end()


async def offered(node: Node, *paths: str, deadline: float = 30.0) -> None:
    """Wait until a node finds all of these."""
    for path in paths:
        await until(partial(finds, node, path), deadline=deadline, pause=0.1)


def spegel_process(node: Node, peer: str) -> Process:
    """Return Spegel with the flags our own node gets, which is a test of the flags too; it needs
    the peer's id.
    """
    flags = node.flags()
    flags["static_bootstrap_peers"] = f"{flags['static_bootstrap_peers']}/p2p/{peer}"
    del flags["log_format"]  # ours alone
    options = [
        text
        for name, value in flags.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    return Process(
        command=[*node.namespace.prefix, SPEGEL, "registry", *options], log=node.folder / "go.log"
    )


async def _peer_id(node: Node) -> str:
    def find() -> str | None:
        assert node.spegel is not None
        found = re.findall(r"/p2p/(12D3\w+)", node.spegel.output)
        return str(found[-1]) if found else None

    async def is_there() -> bool:
        return find() is not None

    await until(is_there, deadline=30)
    return find() or ""
