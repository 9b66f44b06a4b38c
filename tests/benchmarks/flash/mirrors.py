"""The candidates' mirrors on the lab's nodes: started together, connected to each other, and
ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.identity import load_or_create
from tests.benchmarks.flash.plan import OFF, SHARING, SPEGEL
from tests.benchmarks.machine import cpu_seconds
from tests.integration.cluster import joined
from tests.interop.mixed import spegel_process
from tests.support.lab import Node, until
from tests.support.processes import Process

MIRROR = "http://127.0.0.1:5000"
_SHARES = {OFF: "false", SHARING: "true"}
_CONNECTED = 60.0
"""Seconds after which nodes must know each other, and be at rest."""
_QUIET = 0.02
"""CPU seconds that each uses in a second of rest at most."""


class Mirrors:
    """The processes of one candidate."""

    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes

    def __len__(self) -> int:
        return len(self._processes)

    def cpu(self) -> float:
        """Return the CPU seconds that they have used so far."""
        return sum(cpu_seconds(process.pid) for process in self._processes if process.pid)

    async def at_rest(self) -> None:
        """Return when they have done next to nothing for a second: what starting gave them to do is
        done.
        """
        used = self.cpu()

        async def is_quiet() -> bool:
            nonlocal used
            before, used = used, self.cpu()
            return used - before <= _QUIET * len(self)

        await asyncio.sleep(1)
        await until(is_quiet, deadline=_CONNECTED, pause=1)


@asynccontextmanager
async def mirrors(candidate: str, nodes: list[Node]) -> AsyncIterator[Mirrors]:
    """Run a candidate's mirrors, and have each containerd ask its own first."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            is_mirrored = candidate in _SHARES or candidate == SPEGEL
            node.write_hosts_toml(mirror=MIRROR if is_mirrored else None)
        processes: list[Process] = []
        if candidate in _SHARES:
            processes = await asyncio.gather(
                *(
                    node.start_spegel(share_in_flight=_SHARES[candidate], log_level="WARNING")
                    for node in nodes
                )
            )
        elif candidate == SPEGEL:
            processes = await _start_spegel(nodes)
        for process in processes:
            stack.push_async_callback(process.end)
        if candidate in _SHARES:
            await joined(*nodes)
        yield Mirrors(processes)


async def _start_spegel(nodes: list[Node]) -> list[Process]:
    """Start Spegel, whose static bootstrap wants the first node's id: the key it will find is made
    before.
    """
    first = compat.peer_id(load_or_create(nodes[0].folder / "data"))
    processes = [spegel_process(node, str(first)) for node in nodes]
    for node, process in zip(nodes, processes, strict=True):
        await process.start(partial(node.answers, "/livez"))
    # the first one is ready once another one has found it
    await until(lambda: _all_ready(nodes), deadline=_CONNECTED, pause=0.2)
    return processes


async def _all_ready(nodes: list[Node]) -> bool:
    return all([await node.answers("/readyz") for node in nodes])
