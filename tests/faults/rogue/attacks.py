"""The attacks of the rogue. Each goes on until cancelled, and harms no other machine. On Trio.

An attack goes on after failures on its own side, for example when a node closes a connection.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256
from itertools import count, cycle
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.inflight import messages
from spegel_py.routing.libp2p import kademlia, request_response
from spegel_py.routing.libp2p.keys import name_hash, record_key
from tests.faults.rogue.clients import idle_connections, slow_readers, unfinished_heads
from tests.faults.rogue.environment import Environment
from tests.faults.rogue.peer import (
    ODD_FRAMES,
    ODD_HELLOS,
    RoguePeer,
    frame,
    hello,
    key_set,
    read_exactly,
    receive,
    send,
)
from tests.faults.rogue.registry import HEALTH_ANSWERS, MANIFEST, WRONG_ANSWERS, WRONG_PROOFS

UNUSED = "10.99.1.{}"
"""Unused addresses in the network of the lab."""

Attack = Callable[[Environment], Awaitable[None]]


@asynccontextmanager
async def connected(
    env: Environment, rogue: RoguePeer, *frames: bytes
) -> AsyncIterator[list[tuple[ID, INetStream]]]:
    """Run a rogue peer that is connected to every target and has sent these frames."""
    async with rogue.running():
        links = []
        for target in env.targets:
            with suppress(Exception):
                peer = await rogue.dial(target)
                links.append((peer, await rogue.announce(peer, *frames)))
        yield links


async def malformed_frames(env: Environment) -> None:
    """Send malformed hellos and frames, each from a new identity."""
    honest = hello(":5000")
    sequences: list[tuple[bytes, ...]] = [
        (frame(1, text.encode("utf-8", "surrogatepass")),) for text in ODD_HELLOS
    ]
    sequences += [(honest, each) for each in ODD_FRAMES]
    for frames in cycle(sequences):
        async with connected(env, RoguePeer(), *frames):
            await trio.sleep(0.05)


async def wrong_health_answers(env: Environment) -> None:
    """Answer health checks wrongly."""
    async with connected(env, RoguePeer(), hello(":5000", interval=1), *key_set(env.keys)):
        for answer in cycle(HEALTH_ANSWERS.values()):
            env.http.health_answer = answer
            await trio.sleep(1)


def wrong_answers(name: str) -> Attack:
    """Return the attack that announces the image and answers all requests for it wrongly."""

    async def answer(env: Environment) -> None:
        env.http.answer = WRONG_ANSWERS[name]
        async with connected(env, RoguePeer(), hello(":5000"), *key_set(env.keys)):
            await trio.sleep_forever()

    return answer


async def wrong_proofs(env: Environment) -> None:
    """Tell a key for proofs, and answer without a proof, or with a wrong one, from new identities.

    Each is asked until its first health check, which it does not prove either.
    """
    key = {"hour": 0, "secret": b64encode(os.urandom(32)).decode(), "clock": time.monotonic()}
    for answer in cycle(WRONG_PROOFS.values()):
        env.http.answer = answer
        frames = (hello(":5000", http_key=key), *key_set(env.keys))
        async with connected(env, RoguePeer(), *frames):
            await trio.sleep(0.5)


async def foreign_registry(env: Environment) -> None:
    """Announce other addresses as its registry.

    These are the upstream registry, the metrics of a node, and a cloud's metadata service.
    """
    hosts = [
        f"{env.registry}:5000",
        f"{env.targets[0]}:9090",
        "169.254.169.254:80",
        "127.0.0.1:9090",
        "[::1]:9090",
    ]
    for registry in cycle(hosts):
        async with connected(env, RoguePeer(), hello(registry), *key_set(env.keys)):
            await trio.sleep(0.5)


async def wrong_sizes(env: Environment) -> None:
    """Let each node relay a manifest that lists the image's layers with wrong sizes."""
    layers = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size - 1}
        for digest, size in env.sizes.items()
    ]
    config = {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 1}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    for number in count():
        data = json.dumps(document | {"annotations": {"n": str(number)}}).encode()
        digest = f"sha256:{sha256(data).hexdigest()}"
        env.http.genuine = {digest: data}
        async with connected(env, RoguePeer(), hello(":5000"), *key_set([name_hash(digest)])):
            for target in env.targets:
                with suppress(OSError):
                    await trio.to_thread.run_sync(_get, target, f"/v2/any/manifests/{digest}")


def _get(target: str, path: str) -> None:
    with socket.create_connection((target, 5000), timeout=3) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while client.recv(65536):
            pass


async def unread_stream(env: Environment) -> None:
    """Send past the flow-control window on streams whose handler does not read."""
    while True:
        async with connected(env, RoguePeer()) as links:
            with suppress(Exception):
                for _, linked in links:
                    muxed: Any = linked.muxed_conn
                    piece = bytes(60_000)
                    stream = await muxed.open_stream()
                    head = struct.pack("!BBHII", 0, 0, 0, stream.stream_id, len(piece))
                    for _ in range(200):
                        await muxed._write_frame(head + piece)


async def many_streams(env: Environment) -> None:
    """Open endless numbers of streams, and send nothing on them."""
    while True:
        async with connected(env, RoguePeer()) as links:
            with suppress(Exception):
                for _, linked in links:
                    for _ in range(1000):
                        await linked.muxed_conn.open_stream()
        await trio.sleep(0.1)


async def many_identities(env: Environment) -> None:
    """Join as 140 nodes that announce only a part of their keys."""
    async with AsyncExitStack() as stack:
        for _ in range(140):
            frames = (hello(":5000"), *key_set([], is_complete=False))
            await stack.enter_async_context(connected(env, RoguePeer(), *frames))
        await trio.sleep_forever()


async def many_keys(env: Environment) -> None:
    """Announce 250,000 keys, each with an age, from each of four identities."""
    keys = [os.urandom(32) for _ in range(250_000)]
    ages = [
        frame(8, b"".join(key + b"\0\0\0\1" for key in keys[i : i + 8_000]))
        for i in range(0, len(keys), 8_000)
    ]
    async with AsyncExitStack() as stack:
        for _ in range(4):
            frames = (hello(":5000"), *key_set(keys), *ages, *list(key_set(keys))[:-1])
            await stack.enter_async_context(connected(env, RoguePeer(), *frames))
        await trio.sleep_forever()


async def many_contacts(env: Environment) -> None:
    """Return thousands of unreachable nodes to each Kademlia query."""

    async def answer(stream: INetStream) -> None:
        with suppress(Exception):
            while True:
                query = await receive(stream)
                reply = Message(type=query.type, key=query.key)
                for number in range(12_000):
                    entry = reply.closerPeers.add()
                    entry.id = os.urandom(34)
                    host = UNUSED.format(100 + number % 100)
                    entry.addrs.append(Multiaddr(f"/ip4/{host}/tcp/{1024 + number}").to_bytes())
                await send(stream, reply)

    while True:
        rogue = RoguePeer()
        rogue.on(kademlia.PROTOCOL, answer)
        async with connected(env, rogue, hello(":5000"), *key_set([])):
            await trio.sleep(2)


async def many_messages(env: Environment) -> None:
    """Flood nodes with Kademlia records and queries, with 900 addresses in each record."""

    async def flood(peer: ID, rogue: RoguePeer) -> None:
        addresses = [Multiaddr("/ip4/10.99.1.9/tcp/1").to_bytes()] * 900
        entry = Message.Peer(id=rogue.host.get_id().to_bytes(), addrs=addresses)
        with suppress(Exception):
            stream = await rogue.host.new_stream(peer, [kademlia.PROTOCOL])
            for number in count():
                key = record_key(sha256(str(number).encode()).digest())
                await send(
                    stream, Message(type=Message.ADD_PROVIDER, key=key, providerPeers=[entry])
                )
                await send(stream, Message(type=Message.FIND_NODE, key=key))

    while True:
        rogue = RoguePeer()
        async with connected(env, rogue) as links, trio.open_nursery() as nursery:
            for peer, _ in links:
                nursery.start_soon(flood, peer, rogue)


async def repeated_resyncs(env: Environment) -> None:
    """Request the whole key set of a node again and again."""

    async def request_again(stream: INetStream) -> None:
        with suppress(Exception):
            while True:
                await stream.write(frame(7, b"") * 100)
                await trio.sleep(0.05)

    rogue = RoguePeer()
    rogue.on("/spegel-py/announce/1.0.0", request_again)
    async with connected(env, rogue, hello(":5000")):
        await trio.sleep_forever()


def waiting_coordinator(seconds: float) -> Attack:
    """Return the attack of coordinators that make every node wait this many seconds."""

    async def wait(env: Environment) -> None:
        async def answer(stream: INetStream) -> None:
            with suppress(Exception):
                while True:
                    (length,) = struct.unpack(">H", await read_exactly(stream, 2))
                    await read_exactly(stream, length)
                    reply = messages.encode(messages.RetryLater(seconds))
                    await stream.write(struct.pack(">H", len(reply)) + reply)

        async with AsyncExitStack() as stack:
            for _ in range(8):
                rogue = RoguePeer()
                rogue.on(request_response.PROTOCOL, answer)
                await stack.enter_async_context(
                    connected(env, rogue, hello(":5000", shares=True), *key_set([]))
                )
            await trio.sleep_forever()

    return wait


ATTACKS: Mapping[str, Attack] = {
    "odd words": malformed_frames,
    "odd checks": wrong_health_answers,
    **{f"wrong answers: {name}": wrong_answers(name) for name in WRONG_ANSWERS},
    "wrong proofs": wrong_proofs,
    "someone else's registry": foreign_registry,
    "wrong sizes": wrong_sizes,
    "unread stream": unread_stream,
    "many streams": many_streams,
    "many identities": many_identities,
    "many keys": many_keys,
    "many contacts": many_contacts,
    "many messages": many_messages,
    "whole sets again": repeated_resyncs,
    "coordinator says wait": waiting_coordinator(19.0),
    "coordinator says wait 0": waiting_coordinator(0.0),
    "unfinished heads": unfinished_heads,
    "idle connections": idle_connections,
    "slow readers": slow_readers,
}
"""By their names in reports."""
