"""A peer that holds nothing and is told everything: it says which nodes advertise a key, exactly.

It runs as a process of its own beside the lab's registry and answers each line of keys, a JSON list
on stdin, with a JSON object on stdout: the addresses of those that advertise the key.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.oci.build import Image
from spegel_py.routing.libp2p.bootstrap import StaticBootstrap
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.telemetry import logging
from tests.support.lab import Lab, Node, until

_PORT = 5001
_LINE = 1 << 26


class Observer:
    """The test's end of the process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def holders(self, keys: Collection[str]) -> dict[str, set[str]]:
        """Return the addresses of the nodes that advertise each of the keys."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(sorted(keys)).encode() + b"\n")
        async with asyncio.timeout(30):
            answer = json.loads(await self._process.stdout.readline())
        return {key: set(addresses) for key, addresses in answer.items()}

    async def advertised(self, node: Node, keys: Collection[str]) -> set[str]:
        """Return those of the keys that a node advertises."""
        return {
            key
            for key, addresses in (await self.holders(keys)).items()
            if node.address in addresses
        }

    async def sees(self, node: Node, keys: Collection[str], *, deadline: float = 10.0) -> None:
        """Wait until a node advertises all of the keys."""

        async def has_all() -> bool:
            return await self.advertised(node, keys) == set(keys)

        await until(has_all, deadline=deadline, pause=0.05)

    async def misses(self, node: Node, keys: Collection[str], *, deadline: float = 10.0) -> None:
        """Wait until a node advertises none of the keys."""

        async def has_none() -> bool:
            return not await self.advertised(node, keys)

        await until(has_none, deadline=deadline, pause=0.05)


def keys(reference: str, app: Image) -> set[str]:
    """Return what a node advertises that holds all of an image."""
    return {reference} | {str(blob.digest) for blob in app.blobs}


@asynccontextmanager
async def observing(lab: Lab) -> AsyncIterator[Observer]:
    """Run an observer that is connected to all nodes; to them it is one more peer."""
    options = {
        "host": lab.registry.namespace.address,
        "peers": [f"/ip4/{n.address}/tcp/{_PORT}" for n in lab.nodes],
    }
    process = await asyncio.create_subprocess_exec(
        *lab.registry.namespace.prefix,
        *(sys.executable, "-m", "tests.integration.observer", json.dumps(options)),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        yield Observer(process)
    finally:
        process.stdin.close()  # at which it says goodbye, and the nodes need not find it dead
        await process.wait()


async def _observe(options: dict[str, Any]) -> None:
    reader = asyncio.StreamReader(limit=_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with _router(options["host"], options["peers"]).running() as router:
        while len(router.connected()) < len(options["peers"]):
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        while line := await reader.readline():
            print(
                json.dumps({key: await _holders(router, key) for key in json.loads(line)}),
                flush=True,
            )


async def _holders(router: Libp2pRouter, key: str) -> list[str]:
    return [peer.host async for peer in router.lookup(key, limit=64)]


def _router(host: str, peers: Sequence[str]) -> Libp2pRouter:
    return Libp2pRouter(
        settings=RouterSettings(
            key=Ed25519PrivateKey.generate(),
            host=host,
            port=_PORT,
            registry_host=host,
            registry_port=1,
            interval=4.0,
            mesh_limit=128,
            replication=20,
            agent="observer",
        ),
        bootstrap=StaticBootstrap(peers, router_port=_PORT),
    )


if __name__ == "__main__":
    logging.configure(level="ERROR", log_format="console")
    asyncio.run(_observe(json.loads(sys.argv[1])))
