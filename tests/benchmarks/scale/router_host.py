"""Several routers in one process: `python -m tests.benchmarks.scale.router_host`.

The routers are the real ones, without HTTP. Bounds by address are lifted, since all routers share
the machine's address. A router that is no member neither asks for other peers nor dials any but the
members, but names all routers, as in a whole mesh. A partition closes the connections to the other
side, and refuses dials to it.

The process is driven by JSON lines: `{"do": "announce" | "stats" | "lookup" | "cut" | "heal" |
"restart", …}`. Each gets one JSON line back.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError
from spegel_py.routing.libp2p import bounds, closing, discovery, prober
from spegel_py.routing.libp2p.bootstrap import StaticBootstrap
from spegel_py.routing.libp2p.compat import peer_id
from spegel_py.routing.libp2p.dht import Dht
from spegel_py.routing.libp2p.kademlia import CLOSEST
from spegel_py.routing.libp2p.keys import closest, position
from spegel_py.routing.libp2p.multiaddrs import Contact
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.routing.libp2p.service import Service
from spegel_py.telemetry import logging
from spegel_py.tools.addresses import check_port_free
from spegel_py.tools.memory_trim import trim_memory
from tests.benchmarks import machine
from tests.benchmarks.machine import Memory
from tests.benchmarks.scale.plan import Size, key_name, keys_of

HOST = "127.0.0.1"
LIMIT = 8
"""Peers of one lookup, as the mirror asks for them."""

OTHERS_PERIOD = 15.0
"""Seconds between two pings that a router sends which is no member: a thousand pings a second would
keep one machine busy. Members send one each second, as nodes do."""

_blocked: set[int] = set()
"""The ports of the routers on the other side of a partition."""


class HostedRouter:
    """One router of this process, which can be started again with its identity and keys."""

    def __init__(self, number: int, port: int, bootstrap: Sequence[int], size: Size) -> None:
        self.number = number
        self.port = port
        self._bootstrap = [f"/ip4/{HOST}/tcp/{each}" for each in bootstrap]
        self._size = size
        self._key = _key_of(number)
        self._stack = AsyncExitStack()
        self.router: Libp2pRouter | None = None

    async def start(self) -> None:
        settings = RouterSettings(
            key=self._key,
            host=HOST,
            port=self.port,
            registry_host=HOST,
            registry_port=self.port,
            interval=self._size.interval,
            mesh_limit=self._size.routers + 1,
            replication=20,
            agent="scale",
        )
        bootstrap = StaticBootstrap(self._bootstrap, router_port=self.port)
        router = Libp2pRouter(settings=settings, bootstrap=bootstrap)
        self.router = await self._stack.enter_async_context(router.running())

    async def stop(self) -> None:
        """Stop it; return once its port is free, which takes longer where it has many peers."""
        self.router = None
        await self._stack.aclose()
        async with asyncio.timeout(60):
            while not _is_free(self.port):
                await asyncio.sleep(0.1)

    async def announce(self) -> None:
        assert self.router is not None
        await self.router.advertise([key_name(each) for each in keys_of(self.number, self._size)])

    async def lookup(self, key: int) -> tuple[list[int], float]:
        """Return the ports found, and the seconds taken."""
        assert self.router is not None
        start = time.perf_counter()
        ports = [peer.port async for peer in self.router.lookup(key_name(key), limit=LIMIT)]
        return ports, time.perf_counter() - start

    async def cut(self, ids: Iterable[str]) -> None:
        """Close the connections to some peers."""
        assert self.router is not None
        peers = [ID.from_base58(each) for each in ids]
        await self.router._side.call(lambda service: _hang_up(service, peers))


async def _hang_up(service: Service, peers: Sequence[ID]) -> None:
    network = service._host.get_network()
    await closing.hang_up([each for peer in peers for each in network.get_connections(peer)])


def _lift_bounds() -> None:
    """Let one address stand for a whole cluster."""
    bounds.ON_LOOPBACK = 100_000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _refuse_blocked() -> None:
    """Have dials to the other side of a partition fail."""
    dial = TCP.dial

    async def dial_unless_blocked(self: TCP, address: Multiaddr) -> RawConnection:
        if int(address.value_for_protocol("tcp")) in _blocked:
            raise OSError(f"{address} is on the other side")
        return await dial(self, address)  # type: ignore[return-value]

    TCP.dial = dial_unless_blocked  # type: ignore[method-assign, assignment]


def _is_free(port: int) -> bool:
    try:
        check_port_free(HOST, port, flag="port")
    except ConfigError:
        return False
    return True


def _key_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.Random(number).randbytes(32))


def _stay_apart(everybody: Sequence[int]) -> None:
    """Have the routers of this process connect to nobody but their bootstrap nodes, and name all.

    A newcomer that asks them would find nobody but the members otherwise.
    """
    ids = [peer_id(_key_of(number)) for number in range(len(everybody))]
    contacts = {
        peer.to_bytes(): Contact(peer, (Multiaddr(f"/ip4/{HOST}/tcp/{port}"),))
        for peer, port in zip(ids, everybody, strict=True)
    }

    def closest_of_all(self: Dht, raw: bytes, asking: ID) -> list[Contact]:
        places = ((position(name), name) for name in contacts if name != asking.to_bytes())
        return [contacts[name] for name in closest(position(raw), places, CLOSEST)]

    async def nothing(*_: object, **__: object) -> None:
        """Neither asks nor dials."""

    prober.PERIOD = OTHERS_PERIOD  # type: ignore[attr-defined]
    discovery.MemberDiscovery.run = nothing  # type: ignore[method-assign]
    discovery.MemberDiscovery.explore = nothing  # type: ignore[method-assign]
    discovery.MemberDiscovery.dial_named = nothing  # type: ignore[method-assign]
    Dht.closest = closest_of_all  # type: ignore[method-assign]


async def _serve(options: dict[str, Any]) -> None:
    size = Size(**options["size"])
    _lift_bounds()
    _refuse_blocked()
    if not options["is_member"]:
        _stay_apart(options["everybody"])
    hosted = [
        HostedRouter(number, port, options["bootstrap"], size)
        for number, port in zip(options["numbers"], options["ports"], strict=True)
    ]
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await asyncio.gather(*(each.start() for each in hosted))
    ids = [each.router.id for each in hosted if each.router]
    print(json.dumps({"ids": ids}), flush=True)
    while line := await reader.readline():
        print(json.dumps(await _do(hosted, json.loads(line))), flush=True)
    await asyncio.gather(*(each.stop() for each in hosted))


async def _do(hosted: Sequence[HostedRouter], command: dict[str, Any]) -> object:
    match command["do"]:
        case "announce":
            await asyncio.gather(*(each.announce() for each in hosted))
        case "stats":
            return _stats(hosted, is_weighed=command["is_weighed"])
        case "lookup":
            return [[await each.lookup(key) for key in command["keys"]] for each in hosted]
        case "cut":
            _blocked.update(command["ports"])
            await asyncio.gather(*(each.cut(command["ids"]) for each in hosted))
        case "heal":
            _blocked.clear()
        case "restart":
            one = next(each for each in hosted if each.number == command["number"])
            await one.stop()
            await one.start()
            await one.announce()
    return None


def _stats(hosted: Sequence[HostedRouter], *, is_weighed: bool) -> dict[str, object]:
    used = Memory(rss=0.0, pss=0.0, anonymous=0.0)
    if is_weighed:
        gc.collect()
        trim_memory()  # as a node does after a burst
        used = machine.memory(os.getpid())
    return {
        "peers": [len(each.router.connected()) for each in hosted if each.router],
        "connected": [each.router.connected() for each in hosted if each.router],
        "records": [each.router.records() for each in hosted if each.router],
        "cpu": machine.cpu_seconds(os.getpid()),
        "rss": used.rss,
        "pss": used.pss,
        "threads": machine.threads(os.getpid()),
        "descriptors": machine.descriptors(os.getpid()),
    }


if __name__ == "__main__":
    logging.configure(level="ERROR", log_format="console")
    uvloop.run(_serve(json.loads(sys.argv[1])))
