"""Network namespaces joined by one bridge, so that a test has a network of machines of its own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spegel_py.tools.threads import fulfil
from tests.support.processes import run

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One machine of the network: its name is that of `ip netns`, its address is on eth0."""

    name: str
    address: str
    port: str
    """The bridge's end of its cable."""
    switch: str
    """The namespace of the bridge."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it here; `ip netns exec` would remount /sys, and runc
        fail.
        """
        return ("nsenter", f"--net=/run/netns/{self.name}")

    async def connect(self, host: str, port: int, *, timeout: float = 5.0) -> socket.socket:
        """Return a TCP connection made from here; it works in the test's own thread."""
        return await inside(self.name, lambda: socket.create_connection((host, port), timeout))

    async def plug(self, *, is_in: bool) -> None:
        """Pull the network cable, or put it back."""
        await run("ip", "-n", self.switch, "link", "set", self.port, "up" if is_in else "down")

    async def limit(self, rate: str) -> None:
        """Limit what arrives here, e.g. to `20mbit`."""
        tc = ("tc", "-n", self.switch, "qdisc", "replace", "dev", self.port, "root")
        await run(*tc, "tbf", "rate", rate, "burst", "64kbit", "latency", "400ms")

    @asynccontextmanager
    async def throttled(self, rate: str, *, burst: str) -> AsyncIterator[None]:
        """Limit what is sent from here to everybody together, e.g. to `100mbit`, while the block
        lasts.
        """
        tc = ("tc", "-n", self.name, "qdisc")
        await run(
            *tc,
            "add",
            "dev",
            "eth0",
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            burst,
            "latency",
            "400ms",
        )
        try:
            yield
        finally:
            await run(*tc, "del", "dev", "eth0", "root")


@asynccontextmanager
async def network(addresses: dict[str, str]) -> AsyncIterator[dict[str, Namespace]]:
    """Make one namespace for each name, with its IPv4 address in a common /24, and remove them at
    the end.

    The bridge has a namespace of its own: the machine the test runs on gets no interface and no
    route.
    """
    run_id = f"{os.getpid():x}{secrets.token_hex(2)}"
    switch = f"sw-{run_id}"
    machines = {
        name: Namespace(f"{name}-{run_id}", address, f"p-{name}", switch)
        for name, address in addresses.items()
    }
    try:
        await run(
            "sh",
            "-ec",
            "\n".join(
                [*_bridge(switch), *(line for one in machines.values() for line in _join(one))]
            ),
        )
        yield machines
    finally:
        names = [one.name for one in machines.values()] + [switch]
        made = [name for name in names if Path("/run/netns", name).exists()]
        failures = await asyncio.gather(
            *(run("ip", "netns", "del", name) for name in made), return_exceptions=True
        )
        for failure in failures:
            if failure is not None and not isinstance(failure, str):
                raise failure


async def inside(namespace: str, function: Callable[[], T]) -> T:
    """Run a blocking function in a thread of its own that lives in the namespace; sockets it makes
    stay there.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def work() -> T:
        _enter(namespace)
        return function()

    threading.Thread(
        target=fulfil, args=(future, work), name=f"in {namespace}", daemon=True
    ).start()
    return await future


def _enter(namespace: str) -> None:
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(fd)


def _bridge(switch: str) -> list[str]:
    return [
        f"ip netns add {switch}",
        f"ip -n {switch} link set lo up",
        f"ip -n {switch} link add br0 type bridge",
        f"ip -n {switch} link set br0 up",
    ]


def _join(one: Namespace) -> list[str]:
    return [
        f"ip netns add {one.name}",
        f"ip -n {one.name} link set lo up",
        f"ip -n {one.name} link add eth0 type veth peer name {one.port} netns {one.switch}",
        f"ip -n {one.switch} link set {one.port} master br0 up",
        f"ip -n {one.name} addr add {one.address}/24 dev eth0",
        f"ip -n {one.name} link set eth0 up",
    ]
