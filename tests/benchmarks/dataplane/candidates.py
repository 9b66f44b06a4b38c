"""The servers that are compared: started, and checked for what they serve."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.digest import Digest
from tests.benchmarks import machine
from tests.benchmarks.dataplane import commands
from tests.benchmarks.dataplane.content import Content
from tests.benchmarks.dataplane.peer import REGISTRY_PORT
from tests.benchmarks.dataplane.tree import Tree
from tests.support.containerd import Daemon
from tests.support.processes import Process

_START = 60.0
"""Seconds for a server to start, and for those in the DHT to be told who has what."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One server that runs."""

    name: str
    process: Process

    @property
    def address(self) -> tuple[str, int]:
        return commands.HOSTS[self.name], REGISTRY_PORT

    def tree(self) -> Tree:
        """Return its processes."""
        pid = self.process.pid
        assert pid is not None, f"{self.name} has ended:\n{self.process.output[-2000:]}"
        return Tree.of(pid)


@asynccontextmanager
async def start(
    names: Sequence[str], *, folder: Path, daemon: Daemon, peer_blobs: Path, content: Content
) -> AsyncIterator[list[Candidate]]:
    """Run the peer and these candidates; each has sent every blob as it should be when the block is
    entered.
    """
    async with AsyncExitStack() as stack:
        peer = _process("peer", folder, commands.peer_command(peer_blobs))
        stack.push_async_callback(peer.end)
        await peer.start(lambda: _has_output(peer), deadline=_START)
        peer_id = peer.output.split()[-1]
        yield [
            await _start(
                stack,
                name,
                folder,
                await commands.command(name, folder / name, daemon, peer_id),
                content,
            )
            for name in names
        ]


async def _start(
    stack: AsyncExitStack, name: str, folder: Path, command: Sequence[str], content: Content
) -> Candidate:
    candidate = Candidate(name, _process(name, folder, command))
    stack.push_async_callback(candidate.process.end)

    async def finds_all() -> bool:
        statuses = [
            await asyncio.to_thread(_status, candidate.address, path) for path in content.paths()
        ]
        return all(status == 200 for status in statuses)

    await candidate.process.start(finds_all, deadline=_START)
    for path, digest in content.paths().items():  # which brings all files into the page cache, too
        await asyncio.to_thread(_verify, candidate, path, digest)
    return candidate


def _process(name: str, folder: Path, command: Sequence[str]) -> Process:
    return Process(
        command=command, log=folder / f"{name}.log", environment={"PYTHONPATH": str(machine.ROOT)}
    )


async def _has_output(process: Process) -> bool:
    return process.output.endswith("\n")


def _status(address: tuple[str, int], path: str) -> int:
    """Return the status of an answer whose body is left alone, 0 where there is none."""
    connection = http.client.HTTPConnection(*address, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _verify(candidate: Candidate, path: str, digest: Digest) -> None:
    connection = http.client.HTTPConnection(*candidate.address, timeout=15)
    connection.request("GET", path)
    answer, hasher = connection.getresponse(), digest.hasher()
    while piece := answer.read(1 << 20):
        hasher.update(piece)
    connection.close()
    assert hasher.hexdigest() == digest.hex, f"{candidate.name} sent other bytes for {path}"
