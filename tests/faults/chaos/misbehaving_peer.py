"""A registry in front of a real node's that misbehaves in one way.

`python -m tests.faults.chaos.misbehaving_peer HOST PORT WAY` forwards requests to the node at
127.0.0.1:5000 and spoils the answers. It runs in the namespace of that node, whose registry port
is redirected here, so clients that follow its announcements arrive here.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from tests.faults.chaos.round import Round
from tests.faults.primitives import python
from tests.support.processes import run

SLOW = "slow"
"""Sends no byte for a minute."""
WHOLE = "whole"
"""Answers a request for a range with 200 and the whole content."""
SHORT = "short"
"""Sends the first half of each layer, with a Content-Length of half the layer."""
LONG = "long"
"""Adds 100 bytes to each layer and to its Content-Length."""

_PORT = 5999
_LENGTH = re.compile(rb"(?i)Content-Length: (\d+)")
_CONFIG = 100_000
"""Bytes: every config is smaller, and every layer is larger."""


def peer(way: str) -> Callable[[Round], AbstractAsyncContextManager[None]]:
    """Return the fault that makes the last seed misbehave in this way."""

    @asynccontextmanager
    async def misbehaving(this_round: Round) -> AsyncIterator[None]:
        node = this_round.cluster.seeds[-1]
        inside = node.namespace.prefix
        module, log = "tests.faults.chaos.misbehaving_peer", node.folder / "misbehaving.log"
        process = python(node.namespace, module, node.address, str(_PORT), way, log=log)

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

    return misbehaving


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
    node_reader, node_writer = await asyncio.open_connection("127.0.0.1", 5000)
    node_writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    head = await node_reader.readuntil(b"\r\n\r\n")
    length = int(found[1]) if (found := _LENGTH.search(head)) else 0
    is_layer = b"/blobs/" in request.partition(b"\r\n")[0] and length > _CONFIG
    if way in (SHORT, LONG) and is_layer:
        length = length // 2 if way == SHORT else length + 100
        head = _LENGTH.sub(b"Content-Length: %d" % length, head)
    writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    left = length
    while left > 0 and not node_reader.at_eof():
        piece = (await node_reader.read(65536))[:left]
        left -= len(piece)
        writer.write(piece)
        await writer.drain()
    writer.write(bytes(left))
    node_writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
