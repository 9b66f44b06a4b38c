"""Libp2p routers on loopback for tests: made, connected, waited for."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.routing.base import Peer, Router
from spegel_py.routing.cluster_keys import ClusterKey, KeysMode
from spegel_py.routing.libp2p.bootstrap import StaticBootstrap
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.routing.peer_proofs import NodeSecret


class Node:
    """One router with what tests need to know of it."""

    def __init__(
        self,
        *,
        bootstrap: Sequence[str] = (),
        port: int | None = None,
        host: str = "127.0.0.1",
        registry_host: str | None = None,
        key: Ed25519PrivateKey | None = None,
        interval: float = 4.0,
        mesh_limit: int = 128,
        replication: int = 20,
        shares: bool = False,
        password: bytes = b"",
        other_passwords: tuple[bytes, ...] = (),
        pings: bool = True,
        keys: Sequence[ClusterKey] = (),
        keys_mode: KeysMode = KeysMode.REQUIRE,
        secret: NodeSecret | None = None,
        registry_port: int | None = None,
        tls: bool = False,
    ) -> None:
        self.port = port or free_port(host)
        self.registry_port = registry_port or self.port  # told to peers only
        self.host = host
        self.dropped: Counter[str] = Counter()
        self.key = key or Ed25519PrivateKey.generate()
        self.router = Libp2pRouter(
            settings=RouterSettings(
                key=self.key,
                host=host,
                port=self.port,
                registry_host=host if registry_host is None else registry_host,
                registry_port=self.registry_port,
                interval=interval,
                mesh_limit=mesh_limit,
                replication=replication,
                agent="test",
                shares=shares,
                password=password,
                other_passwords=other_passwords,
                pings=pings,
                keys_mode=keys_mode,
                secret=secret,
                tls=tls,
            ),
            keys=keys,
            bootstrap=StaticBootstrap(bootstrap, router_port=self.port),
            dropped=lambda reason: self.dropped.update([reason]),
        )

    @property
    def multiaddr(self) -> str:
        return f"/ip{6 if ':' in self.host else 4}/{self.host}/tcp/{self.port}"


@asynccontextmanager
async def cluster(count: int, **options: object) -> AsyncIterator[list[Node]]:
    """Run `count` nodes that bootstrap from the first; yields when each is connected to all
    others.
    """
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for _ in range(count):
            node = Node(bootstrap=[nodes[0].multiaddr] if nodes else [], **options)  # type: ignore[arg-type]
            await stack.enter_async_context(node.router.running())
            nodes.append(node)
        await until(lambda: all(len(node.router.connected()) == count - 1 for node in nodes))
        yield nodes


async def found(router: Router, key: str, *, limit: int = 8) -> list[Peer]:
    """Return all peers that a lookup yields."""
    return [peer async for peer in router.lookup(key, limit=limit)]


async def ports(router: Router, key: str) -> set[int]:
    """Return the registry ports that a lookup finds."""
    return {peer.port for peer in await found(router, key)}


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]],
    *,
    timeout: float = 20.0,
    interval: float = 0.02,
) -> float:
    """Wait until a condition (plain or async) holds and return the seconds it took; TimeoutError
    after `timeout`.
    """
    start = time.monotonic()
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return time.monotonic() - start
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"not so within {timeout} s")
        await asyncio.sleep(interval)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is free now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
