"""One router in a process of its own, driven by JSON lines on stdin:
`python -m tests.benchmarks.router_process`.

Commands: {"do": "advertise"|"withdraw", "keys": [...]}, {"do": "lookup"|"time", "keys": [...]},
{"do": "stats"}. Each gets one JSON line back; a lookup answers with the ports found and the seconds
taken for every key, `time` with more.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.routing.libp2p.bootstrap import StaticBootstrap
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.telemetry import logging


async def _serve(options: dict[str, Any]) -> None:
    port = options["port"]
    settings = RouterSettings(
        key=Ed25519PrivateKey.generate(),
        host="127.0.0.1",
        port=port,
        registry_host="127.0.0.1",
        registry_port=port,
        interval=options.get("interval", 4.0),
        mesh_limit=options["mesh_limit"],
        replication=options["replication"],
        agent="bench",
        pings=options.get("pings", True),
    )
    router = Libp2pRouter(
        settings=settings, bootstrap=StaticBootstrap(options["bootstrap"], router_port=port)
    )
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with router.running():
        while line := await reader.readline():
            print(json.dumps(await _do(router, json.loads(line))), flush=True)


async def _do(router: Libp2pRouter, command: dict[str, Any]) -> object:
    match command["do"]:
        case "advertise":
            await router.advertise(command["keys"])
        case "withdraw":
            await router.withdraw(command["keys"])
        case "lookup":
            return [await _lookup(router, key) for key in command["keys"]]
        case "time":
            return [await _time(router, key) for key in command["keys"]]
        case "stats":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return {
                "peers": len(router.connected()),
                "records": router.records(),
                "cpu": usage.ru_utime + usage.ru_stime,
            }
    return None


async def _lookup(router: Libp2pRouter, key: str) -> tuple[list[int], float]:
    start = time.perf_counter()
    ports = [peer.port async for peer in router.lookup(key, limit=8)]
    return ports, time.perf_counter() - start


async def _time(router: Libp2pRouter, key: str) -> dict[str, object]:
    """Look a key up as the mirror does: `first` are the seconds to the first peer, which the mirror
    asks at once.
    """
    is_local = bool(
        router._table.providers(name_hash(key), time.monotonic())
    )  # no public answer says where it is from
    start = time.perf_counter()
    first = None
    ports = []
    async for peer in router.lookup(key, limit=8):
        first = first or time.perf_counter() - start
        ports.append(peer.port)
    return {
        "is_local": is_local,
        "ports": ports,
        "first": first,
        "whole": time.perf_counter() - start,
    }


if __name__ == "__main__":
    logging.configure(level="WARNING", log_format="console")
    uvloop.run(_serve(json.loads(sys.argv[1])))
