"""How long a client waits when the peer that its blob comes from is killed, reset or stopped in the
middle of it.

Each body is fetched by a plain client through a node that holds nothing, hashed, and held against
its digest.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.digest import Digest
from spegel_py.store.layout import LayoutWriter
from spegel_py.transfer.base import Deadlines
from tests.benchmarks import nodes
from tests.benchmarks.figures import Figure
from tests.benchmarks.nodes import Node
from tests.support.processes import run, until

HOLDERS = 3
BLOBS = 10
SIZE = 48 * 10**6
RATE = 32 * 10**6
"""Bytes per second that a holder sends: a body lasts long enough to be broken, and is not spread
over several peers.
"""

GAP = 0.1
"""Seconds at most without a byte; after a freeze on top of the stall deadline, which is what finds
it out.
"""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One body: whether it is the right one, and the longest wait for a further byte, in
    seconds.
    """

    is_right: bool
    gap: float


Fault = Callable[[Node], Awaitable[None]]


async def killed(node: Node) -> None:
    """End the process at once."""
    await node.process.end(signal.SIGKILL)


async def reset(node: Node) -> None:
    """Reset its connections: RST to both ends (needs root)."""
    await run("ss", "-K", "-tn", f"sport = :{node.registry}")


async def stopped(node: Node) -> None:
    """Let it hang, with its connections open."""
    node.process.send(signal.SIGSTOP)


async def nothing(_node: Node) -> None:
    """Break nothing, to have something to compare with."""


FAULTS: dict[str, tuple[Fault, float]] = {
    "nothing": (nothing, GAP),
    "kill -9": (killed, GAP),
    "RST": (reset, GAP),
    "SIGSTOP": (stopped, Deadlines().stall + GAP),
}


async def measure(*, is_quick: bool) -> list[Figure]:
    """Break one body after the other, each fault in turn."""
    faults = {name: fault for name, fault in FAULTS.items() if name != "RST" or os.geteuid() == 0}
    rounds = 2 if is_quick else 34
    found: dict[str, list[Fetched]] = {name: [] for name in faults}
    rng = random.Random(4)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-failover-")))
        field = await _start(stack, folder)
        for _ in range(rounds):
            for name, (fault, _) in faults.items():
                found[name].append(await field.fetch(fault, share=rng.uniform(0.2, 0.6)))
                await field.heal()
    return summarise(found)


def summarise(found: dict[str, list[Fetched]]) -> list[Figure]:
    """Return the figures: longest gaps, and bodies that were not right."""
    conditions = (
        f"{SIZE / 1e6:.0f} MB at {RATE / 1e6:.0f} MB/s from one of {HOLDERS} holders, "
        "broken once between 20 and 60 %"
    )
    gaps = [
        Figure(
            name=f"longest wait for a byte, {name}",
            conditions=conditions,
            unit="ms",
            values={"median": sorted(waits)[len(waits) // 2] * 1000, "max": max(waits) * 1000},
            targets={"max": FAULTS[name][1] * 1000},
            samples=len(waits),
        )
        for name, bodies in found.items()
        if (waits := [body.gap for body in bodies])
    ]
    bodies = [body for name, each in found.items() if name != "nothing" for body in each]
    wrong = Figure(
        name="bodies short or with another sha256",
        conditions=conditions,
        unit="bodies",
        values={"count": sum(not body.is_right for body in bodies)},
        targets={"count": 0},
        samples=len(bodies),
    )
    return [*gaps, wrong]


@dataclass(slots=True)
class _Field:
    asked: Node
    holders: Sequence[Node]
    blobs: Sequence[Digest]
    fetched: int = 0

    async def fetch(self, fault: Fault, *, share: float) -> Fetched:
        """Fetch a blob, and break the holder it comes from once this share of it is there."""
        digest = self.blobs[self.fetched % len(self.blobs)]
        self.fetched += 1
        body = _Body(digest)
        fetching = asyncio.create_task(asyncio.to_thread(body.fetch, self.asked.registry))

        async def has_come() -> bool:
            return body.received >= share * SIZE

        await until(has_come, deadline=30, pause=0.005, unless=fetching.done)
        await fault(self._source())
        return await fetching

    async def heal(self) -> None:
        """Have every holder run, and be known to hold all blobs."""
        for holder in self.holders:
            holder.process.send(signal.SIGCONT)
            if holder.process.pid is None:
                await holder.join()
        await nodes.told([self.asked], len(self.holders) * len(self.blobs))

    def _source(self) -> Node:
        """Return the holder that the body under way comes from, as the asked node's log says."""
        lines = [
            line for line in self.asked.process.output.splitlines() if '"relay started"' in line
        ]
        port = int(json.loads(lines[-1])["addr"].rpartition(":")[2])
        return next(holder for holder in self.holders if holder.registry == port)


class _Body:
    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self.received = 0

    def fetch(self, port: int) -> Fetched:
        """Fetch all of it over a socket of its own, as it comes."""
        hasher, gap, buffer = self._digest.hasher(), 0.0, bytearray(1 << 18)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            head = (
                f"GET /v2/bench/app/blobs/{self._digest}?ns=registry.test HTTP/1.1\r\nHost: "
                "x\r\n\r\n"
            )
            connection.sendall(head.encode())
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(4096)
            rest = data.partition(b"\r\n\r\n")[2]
            hasher.update(rest)
            self.received, last = len(rest), time.monotonic()
            while self.received < SIZE and (count := connection.recv_into(buffer)):
                now = time.monotonic()
                gap, last = max(gap, now - last), now
                self.received += count
                hasher.update(memoryview(buffer)[:count])
        return Fetched(hasher.hexdigest() == self._digest.hex, gap)


async def _start(stack: AsyncExitStack, folder: Path) -> _Field:
    blobs = await asyncio.to_thread(_write, folder / "layout")
    (folder / "empty").mkdir()
    LayoutWriter.create(root=folder / "empty", is_durable=False)
    # what is asked for again is verified otherwise, and copied for that
    store = {"oci-layout": folder / "empty", "verify-blobs": "off", "log-level": "DEBUG"}
    asked = Node(folder=folder / "asked", store=store)
    stack.push_async_callback(asked.process.end)
    await asked.start()
    holders = []
    for number in range(HOLDERS):
        flags = {"oci-layout": folder / "layout", "max-upload-rate": RATE}
        holder = Node(folder=folder / f"holder{number}", store=flags, bootstrap=asked.router)
        stack.push_async_callback(holder.process.end)
        await holder.join()
        holders.append(holder)
    field = _Field(asked, holders, blobs)
    await field.heal()
    return field


def _write(root: Path) -> list[Digest]:
    writer = LayoutWriter.create(root=root, is_durable=False)
    return [writer.put(os.urandom(SIZE)) for _ in range(BLOBS)]
