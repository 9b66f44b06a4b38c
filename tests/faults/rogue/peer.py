"""A rogue libp2p peer: it speaks the protocols of a node, with any content. On Trio."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import varint
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import announce, closing, compat, dialling, kademlia, request_response

ODD_HELLOS = (
    '{"interval": 1' + "0" * 400 + ', "registry": ":5000"}',
    '{"interval": 5, "registry": ":5000", "time": 1' + "0" * 400 + "}",
    '{"interval": 5, "registry": ":' + "9" * 4000 + '"}',
    '{"interval": 5, "registry": ":5000", "time": NaN}',
    '{"interval": 5, "registry": ":5000", "time": 1e999}',
    '{"interval": 5, "registry": ":5000", "agent": "\\ud800"}',
    '{"interval": 5, "registry": ":5000", "agent": "\\u001b[2J\\u001b]0;owned\\u0007"}',
    '{"interval": 5, "registry": "[fe80::1%' + "a" * 64 + ']:5000"}',
    '{"interval": 5, "registry": "[fe80::1%\\ud800]:5000"}',
    '{"interval": 5, "registry": "[fe80::1%' + "x." * 400_000 + 'x]:5000"}',
    '{"interval": 5, "registry": ":5000", "proof": 5}',
    "[" * 100_000,
    "[]",
    "null",
    "",
)
"""Bodies of hellos; some once ended a node, its libp2p side or its status page."""

KEYS_PER_FRAME = 9_000
"""Keys in one frame of a rogue's set; the largest frame holds no more."""


def frame(kind: int, body: bytes) -> bytes:
    """Return an announce frame of any kind with any body."""
    return struct.pack(">I", 1 + len(body)) + bytes([kind]) + body


ODD_FRAMES = (
    frame(9, b""),
    frame(255, b"x" * 1000),
    frame(2, b"\xff"),
    frame(2, b"\x07" + b"x" * 31),
    frame(5, b"x"),
    frame(6, b"x"),
    frame(7, b""),
    frame(8, b"x" * 35),
    struct.pack(">I", 0),
    struct.pack(">I", 1 << 31) + b"x" * 100,
)
"""Malformed announce frames."""


def hello(registry: str, **members: object) -> bytes:
    """Return the hello of an honest node with a long interval, with these members changed."""
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
    """One identity.

    Streams that other nodes open are read to their end, unless `on` sets another handler.
    """

    def __init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        self.host: BasicHost = compat.build_host(key, announce=list)
        for protocol in (announce.PROTOCOL, kademlia.PROTOCOL, request_response.PROTOCOL):
            self.on(protocol, _read_all)

    def on(self, protocol: Any, handler: StreamHandlerFn) -> None:
        """Set the handler of a protocol's streams."""
        self.host.set_stream_handler(protocol, handler)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run while the block lasts."""
        async with self.host.run([]):
            try:
                yield
            finally:
                await closing.hang_up_all(self.host)
                closing.shut_connections(self.host)

    async def dial(self, target: str) -> ID:
        """Connect to a node's router at an IP address. Raises PeerUnreachable."""
        address = Multiaddr(f"/ip4/{target}/tcp/5001")
        return await dialling.dial(self.host, address, expected=None, timeout=5)

    async def announce(self, peer: ID, *frames: bytes) -> INetStream:
        """Open an announce stream to a peer and send frames."""
        stream = await self.host.new_stream(peer, [announce.PROTOCOL])
        for each in frames:
            await stream.write(each)
        return stream


async def _read_all(stream: INetStream) -> None:
    with suppress(Exception):
        while await stream.read(65536):
            await trio.sleep(0)


# Kademlia's frames


async def read_exactly(stream: INetStream, size: int) -> bytes:
    """Return this many bytes of a stream."""
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


async def receive(stream: INetStream) -> Message:
    """Return the next Kademlia message of a stream."""
    length = shift = 0
    while True:
        [byte] = await read_exactly(stream, 1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    message = Message()
    message.ParseFromString(await read_exactly(stream, length))
    return message


async def send(stream: INetStream, message: Message) -> None:
    """Send a Kademlia message."""
    raw = message.SerializeToString()
    await stream.write(bytes(varint.encode(len(raw))) + raw)
