"""What the rogue does, by turns: each attack goes on until it is cancelled, and does harm to no other machine. On Trio.

An attack fails on its own side now and then, as when a node hangs up on it; that is its business, and it goes on.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import count, cycle
from typing import Any, Self

import trio
import varint
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.inflight import messages
from spegel_py.routing.libp2p import kademlia, request_response
from spegel_py.routing.libp2p.keys import name_hash, record_key
from tests.faults.rogue.peer import RoguePeer, frame, hello, key_set
from tests.faults.rogue.registry import CHECKS, MANIFEST, WAYS, RogueRegistry

IDENTIFY = TProtocol("/ipfs/id/1.0.0")
"""A protocol whose handler does not read."""

UNUSED = "10.99.1.{}"
"""Addresses at which nobody is, in the network of the lab."""

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
"""Bodies of hellos that ended a node, its libp2p side or its status page, and some that did not."""

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
"""Frames that are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the rogue knows: its own address, the nodes it turns against, and the image that they pull.

    `sizes` are the bytes of the image's content by digest, `manifest` is the digest of its manifest, `registry` the
    address of the registry that the image comes from. All ports are those of a node's default.
    """

    address: str
    targets: Sequence[str]
    sizes: Mapping[str, int]
    manifest: str
    registry: str
    http: RogueRegistry

    @property
    def keys(self) -> list[bytes]:
        """What an honest holder of the image announces, tags aside."""
        return [name_hash(digest) for digest in self.sizes]

    @property
    def largest(self) -> str:
        """The digest of the largest layer."""
        return max(self.sizes, key=lambda digest: self.sizes[digest])


Attack = Callable[[World], Awaitable[None]]


@asynccontextmanager
async def joined(
    world: World, rogue: RoguePeer, *frames: bytes
) -> AsyncIterator[list[tuple[ID, INetStream]]]:
    """Run a rogue peer that is connected with every target and has sent it these frames."""
    async with rogue.running():
        links = []
        for target in world.targets:
            with suppress(Exception):
                peer = await rogue.dial(target)
                links.append((peer, await rogue.announce(peer, *frames)))
        yield links


async def odd_words(world: World) -> None:
    """Say hellos and frames that no node says, each from a new identity."""
    honest = hello(":5000")
    said: list[tuple[bytes, ...]] = [
        (frame(1, text.encode("utf-8", "surrogatepass")),) for text in ODD_HELLOS
    ]
    said += [(honest, each) for each in ODD_FRAMES]
    for frames in cycle(said):
        async with joined(world, RoguePeer(world.address), *frames):
            await trio.sleep(0.05)


async def odd_checks(world: World) -> None:
    """Answer health checks in wrong ways."""
    async with joined(
        world, RoguePeer(world.address), hello(":5000", interval=1), *key_set(world.keys)
    ):
        for check in cycle(CHECKS.values()):
            world.http.check = check
            await trio.sleep(1)


def wrong_answers(way: str) -> Attack:
    """Return the attack that announces the whole image and answers for it in one wrong way."""

    async def answer(world: World) -> None:
        world.http.way = WAYS[way]
        async with joined(world, RoguePeer(world.address), hello(":5000"), *key_set(world.keys)):
            await trio.sleep_forever()

    return answer


async def someone_else_s_registry(world: World) -> None:
    """Give other machines' addresses as its own registry's: the upstream registry's, a node's metrics, a cloud's."""
    hosts = [
        f"{world.registry}:5000",
        f"{world.targets[0]}:9090",
        "169.254.169.254:80",
        "127.0.0.1:9090",
        "[::1]:9090",
    ]
    for registry in cycle(hosts):
        async with joined(world, RoguePeer(world.address), hello(registry), *key_set(world.keys)):
            await trio.sleep(0.5)


async def wrong_sizes(world: World) -> None:
    """Have each node relay a manifest that names the image's content with other sizes."""
    layers = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size - 1}
        for digest, size in world.sizes.items()
    ]
    config = {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 1}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    for number in count():
        data = json.dumps(document | {"annotations": {"n": str(number)}}).encode()
        digest = f"sha256:{sha256(data).hexdigest()}"
        world.http.own = {digest: data}
        async with joined(
            world, RoguePeer(world.address), hello(":5000"), *key_set([name_hash(digest)])
        ):
            for target in world.targets:
                with suppress(OSError):
                    await trio.to_thread.run_sync(_ask, target, f"/v2/any/manifests/{digest}")


def _ask(target: str, path: str) -> None:
    with socket.create_connection((target, 5000), timeout=3) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while client.recv(65536):
            pass


async def unread_stream(world: World) -> None:
    """Send to streams that nobody reads, past their windows."""
    while True:
        async with joined(world, RoguePeer(world.address)) as links:
            with suppress(Exception):
                for peer, _ in links:
                    muxed, piece = links_muxed(links, peer), b"\0" * 60_000
                    stream = await muxed.open_stream()
                    head = struct.pack("!BBHII", 0, 0, 0, stream.stream_id, len(piece))
                    for _ in range(200):
                        await muxed._write_frame(head + piece)


def links_muxed(links: Sequence[tuple[ID, INetStream]], peer: ID) -> Any:
    """Return the multiplexed connection to one of the peers."""
    [muxed] = [stream.muxed_conn for each, stream in links if each == peer]
    return muxed


async def many_streams(world: World) -> None:
    """Open streams without an end, and say nothing on them."""
    while True:
        async with joined(world, RoguePeer(world.address)) as links:
            with suppress(Exception):
                for peer, _ in links:
                    for _ in range(1000):
                        await links_muxed(links, peer).open_stream()
        await trio.sleep(0.1)


async def many_identities(world: World) -> None:
    """Be a hundred and forty nodes that tell only a part of what they have."""
    async with AsyncExitStack() as stack:
        for _ in range(140):
            frames = (hello(":5000"), *key_set([], is_complete=False))
            await stack.enter_async_context(joined(world, RoguePeer(world.address), *frames))
        await trio.sleep_forever()


async def many_keys(world: World) -> None:
    """Announce a quarter of a million keys from each of four identities, and an age for each of them."""
    keys = [os.urandom(32) for _ in range(250_000)]
    ages = [
        frame(8, b"".join(key + b"\0\0\0\1" for key in keys[i : i + 8_000]))
        for i in range(0, len(keys), 8_000)
    ]
    async with AsyncExitStack() as stack:
        for _ in range(4):
            frames = (hello(":5000"), *key_set(keys), *ages, *list(key_set(keys))[:-1])
            await stack.enter_async_context(joined(world, RoguePeer(world.address), *frames))
        await trio.sleep_forever()


async def many_contacts(world: World) -> None:
    """Name thousands of nodes that do not answer, to whoever asks who there is."""

    async def answer(stream: INetStream) -> None:
        with suppress(Exception):
            while True:
                question = await _receive(stream)
                reply = Message(type=question.type, key=question.key)
                for number in range(12_000):
                    entry = reply.closerPeers.add()
                    entry.id = os.urandom(34)
                    host = UNUSED.format(100 + number % 100)
                    entry.addrs.append(Multiaddr(f"/ip4/{host}/tcp/{1024 + number}").to_bytes())
                await _send(stream, reply)

    while True:
        rogue = RoguePeer(world.address)
        rogue.on(kademlia.PROTOCOL, answer)
        async with joined(world, rogue, hello(":5000"), *key_set([])):
            await trio.sleep(2)


async def many_messages(world: World) -> None:
    """Send records, and questions about who is near, as fast as they are taken, with addresses by the thousand."""

    async def flood(peer: ID, rogue: RoguePeer) -> None:
        addresses = [Multiaddr("/ip4/10.99.1.9/tcp/1").to_bytes()] * 900
        entry = Message.Peer(id=rogue.host.get_id().to_bytes(), addrs=addresses)
        with suppress(Exception):
            stream = await rogue.host.new_stream(peer, [kademlia.PROTOCOL])
            for number in count():
                key = record_key(sha256(str(number).encode()).digest())
                await _send(
                    stream, Message(type=Message.ADD_PROVIDER, key=key, providerPeers=[entry])
                )
                await _send(stream, Message(type=Message.FIND_NODE, key=key))

    while True:
        rogue = RoguePeer(world.address)
        async with joined(world, rogue) as links, trio.open_nursery() as nursery:
            for peer, _ in links:
                nursery.start_soon(flood, peer, rogue)


async def whole_sets_again(world: World) -> None:
    """Ask for everything that a node announces, again and again."""

    async def ask_again(stream: INetStream) -> None:
        with suppress(Exception):
            while True:
                await stream.write(frame(7, b"") * 100)
                await trio.sleep(0.05)

    rogue = RoguePeer(world.address)
    rogue.on("/spegel-py/announce/1.0.0", ask_again)
    async with joined(world, rogue, hello(":5000")):
        await trio.sleep_forever()


def waiting_coordinator(seconds: float) -> Attack:
    """Return the attack that takes part in what nodes share in flight, and has all of them wait."""

    async def wait(world: World) -> None:
        async def answer(stream: INetStream) -> None:
            with suppress(Exception):
                while True:
                    (length,) = struct.unpack(">H", await _exactly(stream, 2))
                    await _exactly(stream, length)
                    reply = messages.encode(messages.RetryLater(seconds))
                    await stream.write(struct.pack(">H", len(reply)) + reply)

        async with AsyncExitStack() as stack:
            for _ in range(8):
                rogue = RoguePeer(world.address)
                rogue.on(request_response.PROTOCOL, answer)
                await stack.enter_async_context(
                    joined(world, rogue, hello(":5000", shares=True), *key_set([]))
                )
            await trio.sleep_forever()

    return wait


# Clients


async def unfinished_heads(world: World) -> None:
    """Send heads of requests that are large and never end, on the ports of the registry and of the metrics."""
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 8000) for number in range(120))
    await _hold(world, 300, (5000, 9090), b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + fields)


async def idle_connections(world: World) -> None:
    """Connect a thousand times, and say nothing."""
    await _hold(world, 1100, (5000, 9090), b"")


async def slow_readers(world: World) -> None:
    """Ask for the largest layer two hundred times, without and with the loop guard, and read next to nothing."""
    path = f"/v2/any/blobs/{world.largest}"
    for guard in ("", "X-Spegel-Mirrored: true\r\n"):
        with trio.move_on_after(10):
            await _hold(
                world,
                200,
                (5000,),
                f"GET {path} HTTP/1.1\r\nHost: x\r\n{guard}\r\n".encode(),
                window=4096,
            )


async def _hold(
    world: World, number: int, ports: Sequence[int], data: bytes, *, window: int | None = None
) -> None:
    """Hold connections to every target, on each of which `data` was sent."""
    with _Held() as held:
        for target in world.targets:
            for port in ports:
                await trio.to_thread.run_sync(held.open, target, port, number, data, window)
        await trio.sleep_forever()


class _Held:
    """Sockets that are closed at the end."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def open(self, target: str, port: int, number: int, data: bytes, window: int | None) -> None:
        """Connect as often as the target lets us."""
        for _ in range(number):
            client = socket.socket()
            self._sockets.append(client)
            client.settimeout(2)
            if window is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            with suppress(OSError):
                client.connect((target, port))
                client.settimeout(0.2)
                client.sendall(data)


# Kademlia's frames


async def _exactly(stream: INetStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


async def _receive(stream: INetStream) -> Message:
    length = shift = 0
    while True:
        [byte] = await _exactly(stream, 1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    message = Message()
    message.ParseFromString(await _exactly(stream, length))
    return message


async def _send(stream: INetStream, message: Message) -> None:
    raw = message.SerializeToString()
    await stream.write(bytes(varint.encode(len(raw))) + raw)


ATTACKS: Mapping[str, Attack] = {
    "odd words": odd_words,
    "odd checks": odd_checks,
    **{f"wrong answers: {way}": wrong_answers(way) for way in WAYS},
    "someone else's registry": someone_else_s_registry,
    "wrong sizes": wrong_sizes,
    "unread stream": unread_stream,
    "many streams": many_streams,
    "many identities": many_identities,
    "many keys": many_keys,
    "many contacts": many_contacts,
    "many messages": many_messages,
    "whole sets again": whole_sets_again,
    "coordinator says wait": waiting_coordinator(19.0),
    "coordinator says wait 0": waiting_coordinator(0.0),
    "unfinished heads": unfinished_heads,
    "idle connections": idle_connections,
    "slow readers": slow_readers,
}
"""By what they are called in reports."""
