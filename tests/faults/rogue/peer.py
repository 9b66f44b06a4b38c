"""A rogue libp2p peer: it speaks the protocols of a node, and says in them what it likes. On Trio."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import announce, compat, kademlia, request_response
from spegel_py.routing.libp2p.addresses import multiaddr

KEYS_PER_FRAME = 9_000
"""Keys in one frame of a rogue's set: as many as fit into the largest frame."""


def frame(kind: int, body: bytes) -> bytes:
    """Return an announce frame of any kind with any body."""
    return struct.pack(">I", 1 + len(body)) + bytes([kind]) + body


def hello(registry: str, **members: object) -> bytes:
    """Return a hello as an honest node of a long interval sends it, with other members in place of some."""
    honest = {
        "interval": 60,
        "registry": registry,
        "agent": "spegel-py/0.1.0",
        "time": time.time(),
        "shares": True,
    }
    return frame(1, json.dumps(honest | members).encode())


def key_set(keys: Collection[bytes], *, is_complete: bool = True) -> Iterable[bytes]:
    """Yield the frames of a whole set."""
    listed = list(keys)
    for start in range(0, max(1, len(listed)), KEYS_PER_FRAME):
        is_last = start + KEYS_PER_FRAME >= len(listed)
        flags = (start == 0) * 1 + is_last * 2 + is_complete * 4
        yield frame(2, bytes([flags]) + b"".join(listed[start : start + KEYS_PER_FRAME]))


class RoguePeer:
    """One identity. Streams that others open to it are read to their end, unless `on` says otherwise."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.address = address
        self._port = port
        listens = [multiaddr(address, port)] if port else []
        self.host: BasicHost = compat.build_host(
            Ed25519PrivateKey.generate(), announce=lambda: listens
        )
        for protocol in (announce.PROTOCOL, kademlia.PROTOCOL, request_response.PROTOCOL):
            self.on(protocol, _read_all)

    def on(self, protocol: Any, handler: StreamHandlerFn) -> None:
        """Handle streams of a protocol."""
        self.host.set_stream_handler(protocol, handler)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RoguePeer]:
        """Run while the block lasts."""
        async with self.host.run([multiaddr(self.address, self._port)] if self._port else []):
            try:
                yield self
            finally:
                await compat.hang_up_all(self.host)
                compat.shut_connections(self.host)

    async def dial(self, target: str) -> ID:
        """Connect to a node's router at an IP address. Raises PeerUnreachable."""
        return await compat.dial(
            self.host, Multiaddr(f"/ip4/{target}/tcp/5001"), expected=None, timeout=5
        )

    async def announce(self, peer: ID, *frames: bytes) -> INetStream:
        """Open an announce stream to a peer and send frames."""
        stream = await self.host.new_stream(peer, [announce.PROTOCOL])
        for each in frames:
            await stream.write(each)
        return stream

    def muxed(self, peer: ID) -> Any:
        """Return the multiplexed connection to a peer, to write raw frames to."""
        return cast("Any", self.host.get_network().get_connections(peer)[0]).muxed_conn


async def _read_all(stream: INetStream) -> None:
    with suppress(Exception):
        while await stream.read(65536):
            await trio.sleep(0)
