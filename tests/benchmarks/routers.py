"""A handful of router processes for benchmarks and tests: start them, talk to them, end them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class RouterProcess:
    """One router in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def do(self, **command: Any) -> Any:
        """Send one command and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(120):
            return json.loads(await self._process.stdout.readline())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


async def start(
    port: int,
    first: int,
    *,
    mesh_limit: int,
    replication: int = 20,
    interval: float = 4.0,
    pings: bool = True,
    root: Path = ROOT,
) -> RouterProcess:
    """Start a router that knows the one at the port `first`; `root` is the checkout it runs."""
    options = {
        "port": port,
        "mesh_limit": mesh_limit,
        "replication": replication,
        "interval": interval,
        "pings": pings,
        "bootstrap": [f"/ip4/127.0.0.1/tcp/{first}"],
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.router_process",
        json.dumps(options),
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    return RouterProcess(process, port)


async def have_peers(routers: Sequence[RouterProcess], wanted: int) -> bool:
    """Return True if each router has so many peers."""
    stats = [await router.do(do="stats") for router in routers]
    return all(each["peers"] == wanted for each in stats)


@asynccontextmanager
async def cluster(
    count: int,
    *,
    mesh_limit: int,
    replication: int = 20,
    interval: float = 4.0,
    silent_about_pings: Collection[int] = (),
) -> AsyncIterator[list[RouterProcess]]:
    """Run `count` routers on loopback that know the first one; yields when each is connected to all
    others.

    Those with an index in `silent_about_pings` are like an older version to the others.
    """
    first = free_port()
    ports = [first] + [free_port() for _ in range(count - 1)]
    async with AsyncExitStack() as stack:
        routers = []
        for number, port in enumerate(ports):
            router = await start(
                port,
                first,
                mesh_limit=mesh_limit,
                replication=replication,
                interval=interval,
                pings=number not in silent_about_pings,
            )
            stack.push_async_callback(router.end)
            routers.append(router)
        await until(lambda: have_peers(routers, count - 1), timeout=60)
        yield routers


async def until(condition: Any, *, timeout: float, interval: float = 0.02) -> float:
    """Wait until an async condition holds; returns the seconds it took, raises TimeoutError after
    `timeout`.
    """
    start = time.monotonic()
    while not await condition():
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"not so within {timeout} s")
        await asyncio.sleep(interval)
    return time.monotonic() - start


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now, and that no outgoing connection takes."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    for port in random.sample(range(lowest // 2, lowest), lowest // 2):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports below {lowest}")
