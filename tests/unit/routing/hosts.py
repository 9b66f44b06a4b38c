"""libp2p hosts in a Trio loop of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p import new_host
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import closing, compat
from spegel_py.routing.libp2p.multiaddrs import multiaddr
from tests.support.routers import free_port


def on_trio(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            await test()

    trio.run(main)


@asynccontextmanager
async def running(
    host: Any, address: str = "127.0.0.1", port: int | None = None
) -> AsyncIterator[Multiaddr]:
    """Run a host; its connections are closed at the end."""
    port = port or free_port(address)
    async with host.run([multiaddr(address, port)]):
        try:
            yield multiaddr(address, port)
        finally:
            await closing.hang_up_all(host)


def ours() -> BasicHost:
    return compat.build_host(Ed25519PrivateKey.generate(), announce=list)


def stock(**options: Any) -> Any:
    quiet = ConnectionConfig(min_connections=0, low_watermark=0, auto_connect_interval=3600)
    return new_host(connection_config=quiet, **options)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)
