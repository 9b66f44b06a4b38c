"""A peer whose registry misbehaves: `python -m tests.faults.chaos.misbehaving HOST PORT WAY` passes requests on to the real
node at 127.0.0.1:5000, save that it does as WAY says.

It stands in the namespace of a real node, whose registry port is redirected to it: so it is announced for real.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import spegel_py
from tests.faults.chaos.scene import Scene
from tests.processes import Process, run

SLOW, WHOLE, SHORT, LONG = "slow", "whole", "short", "long"
"""The ways: no byte for a minute; the whole content, with 200, where a range was asked; bodies of layers that say that
they are, and are, half as long; that say so and are longer by some bytes."""

_PORT = 5999
_LENGTH = re.compile(rb"(?i)Content-Length: (\d+)")
_CONFIG = 100_000
"""Bytes that no config and every layer has."""


def peer(way: str) -> Callable[[Scene], AbstractAsyncContextManager[None]]:
    """Return the fault: the last seed answers so."""

    @asynccontextmanager
    async def misbehaves(scene: Scene) -> AsyncIterator[None]:
        node = scene.field.seeds[-1]
        inside = node.namespace.prefix
        process = Process(
            command=[
                *inside,
                sys.executable,
                "-m",
                "tests.faults.chaos.misbehaving",
                node.address,
                str(_PORT),
                way,
            ],
            log=node.folder / "misbehaving.log",
            environment={"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
        )

        async def listens() -> bool:
            with suppress(OSError):
                (await node.namespace.connect(node.address, _PORT)).close()
                return True
            return False

        await process.start(listens)
        redirect = f"type nat hook prerouting priority -100\ntcp dport 5000 redirect to :{_PORT}"
        await run(
            *inside, "nft", f"table ip misbehaving {{\nchain prerouting {{\n{redirect}\n}}\n}}"
        )
        try:
            yield
        finally:
            await run(*inside, "nft", "delete table ip misbehaving")
            await process.end()

    return misbehaves


async def _serve(host: str, port: int, way: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await _answer(reader, writer, way)
        writer.close()

    async with await asyncio.start_server(answer, host, port) as server:
        await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
    """Answer one request and hang up."""
    request = await reader.readuntil(b"\r\n\r\n")
    if way == SLOW:
        await asyncio.sleep(60)
    if way == WHOLE:
        request = re.sub(rb"(?i)\r\nrange:[^\r]*", b"", request)
    upstream, asking = await asyncio.open_connection("127.0.0.1", 5000)
    asking.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    head = await upstream.readuntil(b"\r\n\r\n")
    size = int(found[1]) if (found := _LENGTH.search(head)) else 0
    said = size
    if way in (SHORT, LONG) and b"/blobs/" in request.partition(b"\r\n")[0] and size > _CONFIG:
        said = size // 2 if way == SHORT else size + 100
        head = _LENGTH.sub(b"Content-Length: %d" % said, head)
    writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    left = said
    while left > 0 and not upstream.at_eof():
        piece = (await upstream.read(65536))[:left]
        left -= len(piece)
        writer.write(piece)
        await writer.drain()
    writer.write(bytes(left))
    asking.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
