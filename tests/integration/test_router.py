"""The libp2p router as a whole: many keys, nodes that die, split regimes, strangers, and its own
Trio side killed."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError
from spegel_py.routing.libp2p import (
    announce,
    closing,
    compat,
    dialling,
    duplicate_identities,
    frames,
    kademlia,
    multiaddrs,
)
from spegel_py.routing.libp2p.identity import load_or_create
from spegel_py.routing.libp2p.keys import name_hash, record_key
from spegel_py.routing.libp2p.multiaddrs import listen_addresses, multiaddr
from tests.benchmarks import routers as processes
from tests.support.routers import Node, cluster, found, ports, until

KEYS = [f"sha256:{number:064x}" for number in range(1000)]


@pytest.mark.parametrize(
    ("count", "mesh_limit", "replication"), [(1000, 128, 20), (200, 0, 2)], ids=["all", "hop"]
)
async def test_every_key_is_found_from_every_node(
    count: int, mesh_limit: int, replication: int
) -> None:
    """Of all keys not one is lost, whatever the regime."""
    keys = KEYS[:count]
    async with processes.cluster(4, mesh_limit=mesh_limit, replication=replication) as nodes:
        await nodes[0].do(do="advertise", keys=keys)
        expected = len(keys) * min(replication, len(nodes) - 1)

        async def told() -> bool:
            held: list[int] = [(await node.do(do="stats"))["records"] for node in nodes]
            return sum(held) >= expected

        await until(told)
        for node in nodes[1:]:
            answers = await node.do(do="lookup", keys=keys)
            assert [ports for ports, _ in answers if ports != [nodes[0].port]] == []


async def test_a_killed_node_is_not_offered_any_more() -> None:
    """After kill -9 nobody is led to the dead node, within two seconds."""
    async with processes.cluster(3, mesh_limit=128) as nodes:
        await nodes[0].do(do="advertise", keys=KEYS[:1])
        await until(lambda: _finds(nodes[1], [nodes[0].port]))
        nodes[0].signal(signal.SIGKILL)
        await until(lambda: _finds(nodes[1], []), timeout=2.0)


async def test_a_stopped_node_is_not_offered_any_more_and_comes_back() -> None:
    """A process that stands still is let go within ten seconds, and found again soon after it goes
    on."""
    async with processes.cluster(3, mesh_limit=128) as nodes:
        await nodes[0].do(do="advertise", keys=KEYS[:1])
        await until(lambda: _finds(nodes[1], [nodes[0].port]))
        nodes[0].signal(signal.SIGSTOP)
        try:
            await until(lambda: _finds(nodes[1], []), timeout=10.0)
        finally:
            nodes[0].signal(signal.SIGCONT)
        await until(lambda: _finds(nodes[1], [nodes[0].port]), timeout=20.0)


async def _finds(node: processes.RouterProcess, expected: list[int]) -> bool:
    answers = await node.do(do="lookup", keys=KEYS[:1])
    return bool(answers[0][0] == expected)


async def test_the_regimes_change_while_nodes_come_and_nothing_is_lost() -> None:
    """A cluster that grows over its limit, and shrinks below it again, finds every key all the
    way."""
    options: dict[str, Any] = {"mesh_limit": 3, "replication": 2}
    async with cluster(3, **options) as nodes:
        await nodes[0].router.advertise(KEYS[:50])
        await until(lambda: _all_found(nodes[1:], nodes[0], KEYS[:50]))
        async with AsyncExitStack() as more:
            newcomers = [Node(bootstrap=[nodes[0].multiaddr], **options) for _ in range(2)]
            for node in newcomers:
                await more.enter_async_context(node.router.running())
            everybody = [*nodes, *newcomers]
            await until(lambda: all(len(node.router.connected()) == 4 for node in everybody))
            await nodes[0].router.advertise(KEYS[50:60])
            await until(lambda: _all_found(everybody[1:], nodes[0], KEYS[:60]))
            partial = sum(node.router.records() for node in everybody[1:])
            assert partial == 2 * 60  # each key at its two closest peers only
        await until(lambda: all(len(node.router.connected()) == 2 for node in nodes))
        await until(lambda: _all_found(nodes[1:], nodes[0], KEYS[:60]))
        await until(lambda: all(node.router.records() == 60 for node in nodes[1:]))


async def _all_found(nodes: list[Node], holder: Node, keys: list[str]) -> bool:
    for node in nodes:
        for key in keys:
            if await ports(node.router, key) != {holder.registry_port}:
                return False
    return True


async def test_a_goodbye_is_heard_at_once() -> None:
    """A node that ends in good order is gone from the others' answers before it has ended."""
    async with cluster(2) as nodes:
        late = Node(bootstrap=[nodes[0].multiaddr])
        async with late.router.running():
            await late.router.advertise(["k"])
            await until(lambda: _held(nodes[1], "k", {late.registry_port}))
        assert await found(nodes[1].router, "k") == []
        assert await found(nodes[0].router, "k") == []


async def _held(node: Node, key: str, expected: set[int]) -> bool:
    return await ports(node.router, key) == expected


async def test_a_goodbye_is_told_from_a_loss() -> None:
    """Of a peer that is gone it is known whether it left in good order."""
    async with processes.cluster(1, mesh_limit=128) as [victim], AsyncExitStack() as stack:
        watcher = Node(bootstrap=[f"/ip4/127.0.0.1/tcp/{victim.port}"])
        await stack.enter_async_context(watcher.router.running())
        leaver = Node(bootstrap=[watcher.multiaddr])
        async with leaver.router.running():
            await until(lambda: len(watcher.router.connected()) == 2)
            [lost] = set(watcher.router.connected()) - {leaver.router.id}
        await until(lambda: watcher.router.connected() == [lost], timeout=5.0)
        victim.signal(signal.SIGKILL)
        await until(lambda: not watcher.router.connected(), timeout=5.0)
        assert (watcher.router.left(leaver.router.id), watcher.router.left(lost)) == (True, False)


async def test_an_announcement_carries_its_interval() -> None:
    """A peer knows how often another of an older version will be heard from, and hears from it that
    often."""
    async with cluster(2, interval=0.5, pings=False) as nodes:
        await until(lambda: [member.interval for member in nodes[0].router.members()] == [0.5])
        for _ in range(40):
            [member] = nodes[0].router.members()
            assert member.heard is not None
            assert member.heard < 1.0
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0], ids=["ahead", "back"])
async def test_a_clock_that_jumps_ends_no_record(
    monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Lives are monotonic: when the wall clock jumps by a day nobody is lost, and nobody is
    kept."""
    async with cluster(2, interval=0.5) as nodes:
        await nodes[0].router.advertise(KEYS[:1])
        await until(lambda: _found_one(nodes[1]))
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for _ in range(40):
            assert await _found_one(nodes[1])
            await asyncio.sleep(0.05)
        await nodes[0].router.crash()
        await until(lambda: not nodes[1].router.connected(), timeout=2.0)


async def _found_one(node: Node) -> bool:
    return len(await found(node.router, KEYS[0])) == 1


async def test_a_hello_that_was_lost_is_said_again() -> None:
    """Whoever was let go just after it had said hello, over a line that stands, is heard from again
    soon.

    So it is when a process goes on that stood still: it takes in what has waited, and then finds
    everybody silent."""
    async with cluster(2, interval=0.5) as nodes:
        await nodes[0].router.advertise(KEYS[:1])
        await until(lambda: _found_one(nodes[1]))
        nodes[1].router._table.peer_disconnected(nodes[0].router.id)
        nodes[1].router._table.peer_connected(nodes[0].router.id)
        assert [member.heard for member in nodes[1].router.members()] == [None]
        await until(
            lambda: [member.heard is not None for member in nodes[1].router.members()] == [True],
            timeout=2.0,
        )


async def test_a_dead_trio_side_is_started_again() -> None:
    """While the libp2p side is down lookups find nobody and raise nothing; then all is told and
    found again."""
    async with cluster(2) as nodes:
        one, two = nodes
        await one.router.advertise(["before"])
        await two.router.advertise(["theirs"])
        await until(lambda: _held(two, "before", {one.registry_port}))
        await one.router.crash()
        await until(lambda: not one.router.connected())
        assert await found(one.router, "theirs") == []
        await one.router.advertise(["meanwhile"])
        await until(lambda: _held(two, "before", {one.registry_port}))
        await until(lambda: _held(two, "meanwhile", {one.registry_port}))
        await until(lambda: _held(one, "theirs", {two.registry_port}))


async def test_the_same_identity_comes_back(tmp_path: Path) -> None:
    """A node that restarts with its data directory is the same peer, and is found anew."""
    async with cluster(1) as nodes:
        ids = []
        for _ in range(2):
            node = Node(bootstrap=[nodes[0].multiaddr], key=load_or_create(tmp_path))
            async with node.router.running():
                await node.router.advertise(["k"])
                await until(lambda node=node: _held(nodes[0], "k", {node.registry_port}))
                ids.append((await found(nodes[0].router, "k"))[0].id)
        assert ids[0] == ids[1]


async def test_ipv6_works_like_ipv4() -> None:
    """Nodes on ::1 find each other, and the peer's address is the v6 one."""
    async with cluster(2, host="::1") as nodes:
        await nodes[0].router.advertise(["k"])
        await until(lambda: _held(nodes[1], "k", {nodes[0].registry_port}))
        peer = (await found(nodes[1].router, "k"))[0]
        assert peer.host == "::1"
        assert peer.authority == f"[::1]:{nodes[0].registry_port}"


async def test_lookups_that_are_left_half_way_harm_no_connection() -> None:
    """Callers that take the first peer and leave, hundreds of times, break no stream and lose no
    record."""
    async with cluster(4, mesh_limit=0, replication=1) as nodes:
        await nodes[0].router.advertise(KEYS[:300])
        await until(lambda: sum(node.router.records() for node in nodes) == 300)
        missed = 0
        for key in KEYS[:300]:
            for node in nodes[1:]:
                lookup = node.router.lookup(key, limit=8)
                try:
                    async with asyncio.timeout(5):
                        missed += await anext(lookup, None) is None
                finally:
                    await lookup.aclose()  # type: ignore[attr-defined]  # a generator
        assert missed == 0
        assert [dict(node.dropped) for node in nodes] == [{}, {}, {}, {}]


async def test_a_busy_cluster_does_not_silence_a_node() -> None:
    """News that have nothing to do with a peer, however often they come, keep no refresh from
    it."""
    async with cluster(2, interval=0.5) as nodes:
        await nodes[0].router.advertise(["k"])
        await until(lambda: _held(nodes[1], "k", {nodes[0].registry_port}))
        service, thread = nodes[0].router._side.service, nodes[0].router._side._thread
        assert service is not None
        assert thread is not None

        async def rumour() -> None:
            service._context.wake()

        for _ in range(40):
            await thread.call(rumour)
            await asyncio.sleep(0.05)
            assert await _held(nodes[1], "k", {nodes[0].registry_port})


async def test_a_seed_that_restarts_is_found_again() -> None:
    """A first peer that nobody tells of the others is in the cluster again within seconds of its
    return."""
    async with AsyncExitStack() as stack:
        seed = Node()
        others = [Node(bootstrap=[seed.multiaddr]) for _ in range(2)]
        async with seed.router.running():
            for node in others:
                await stack.enter_async_context(node.router.running())
            await until(lambda: all(len(node.router.connected()) == 2 for node in others))
        await until(lambda: all(len(node.router.connected()) == 1 for node in others))
        again = Node(port=seed.port, key=seed.key)
        async with again.router.running():
            await until(lambda: len(again.router.connected()) == 2, timeout=10.0)
            await until(lambda: [len(node.router.connected()) for node in others] == [2, 2])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("told", ["", "0.0.0.0", "::"])
async def test_a_registry_on_all_addresses_is_reached_where_its_node_is(
    host: str, told: str
) -> None:
    """A node whose registry listens on a wildcard is offered with the address it is connected
    from."""
    async with cluster(2, host=host, registry_host=told) as nodes:
        await nodes[0].router.advertise(["k"])
        await until(lambda: _held(nodes[1], "k", {nodes[0].registry_port}))
        assert (await found(nodes[1].router, "k"))[0].host == host


async def test_a_taken_port_is_named() -> None:
    """A router port that another node uses is one clear error, although that node's socket would
    share it."""
    async with cluster(1) as nodes:
        with pytest.raises(ConfigError, match="--router-addr"):
            async with Node(port=nodes[0].port).router.running():
                pass


# Strangers: a bare libp2p host that speaks what it should not


def _as_stranger(address: str, talk: Any) -> Any:
    """Connect a bare host to `address`, run `talk(host, peer id)` on Trio and return its result."""

    async def main() -> Any:
        port = processes.free_port()
        host = compat.build_host(
            load_or_create(None), announce=lambda: [multiaddr("127.0.0.1", port)]
        )
        async with host.run(listen_addresses("127.0.0.1", port)):
            peer = await dialling.dial(host, Multiaddr(address), expected=None, timeout=5)
            try:
                return await talk(host, peer)
            finally:
                await closing.hang_up_all(host)

    return trio.run(main)


HELLO = frames.encode(frames.Hello(4.0, "127.0.0.1", 9))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x00\x00\x00\x00", "oversized-frame"),
        (b"\xff\xff\xff\xff", "oversized-frame"),
        (struct.pack(">I", 3) + b"\x63ab", "malformed-frame"),
        (HELLO + struct.pack(">I", 34) + b"\x03" + bytes(33), "malformed-frame"),
        (HELLO + struct.pack(">I", 100) + b"\x03half", "half-frame"),
        (b"\xff" + os.urandom(63), "oversized-frame"),
    ],
    ids=["empty", "huge", "unknown kind", "crooked keys", "half", "random"],
)
async def test_bad_announcements_are_dropped_and_counted(raw: bytes, reason: str) -> None:
    """Garbage ends its own stream only: it is counted, and the same peer's other streams are
    answered."""
    async with cluster(1) as nodes:
        await nodes[0].router.advertise(["k"])

        async def talk(host: Any, peer: ID) -> list[Any]:
            stream = await host.new_stream(peer, [announce.PROTOCOL])
            await stream.write(raw)
            await stream.close()
            async with kademlia.KademliaClient(host).running() as client:
                return await client.get_providers(peer, name_hash("k"))

        found_by_stranger = await asyncio.to_thread(_as_stranger, nodes[0].multiaddr, talk)
        await until(lambda: nodes[0].dropped[reason] > 0)
        assert [str(contact.id) for contact in found_by_stranger] == [_own_id(nodes[0])]


def _own_id(node: Node) -> str:
    return node.router.addresses()[0].rpartition("/")[2]


@pytest.mark.parametrize(
    "raw", [b"\x05garbage", b"\x80" * 12, b"\xff\xff\xff\x7f", b"\x02\x08"], ids=str
)
async def test_bad_dht_messages_are_dropped_and_counted(raw: bytes) -> None:
    """Malformed DHT messages are counted and end their stream only."""
    async with cluster(1) as nodes:

        async def talk(host: Any, peer: ID) -> list[Any]:
            stream = await host.new_stream(peer, [kademlia.PROTOCOL])
            await stream.write(raw)
            await stream.close()
            async with kademlia.KademliaClient(host).running() as client:
                return await client.find_node(peer, peer.to_bytes())

        contacts = await asyncio.to_thread(_as_stranger, nodes[0].multiaddr, talk)
        await until(lambda: nodes[0].dropped.total() > 0)
        assert [str(contact.id) for contact in contacts] == [_own_id(nodes[0])]


async def test_a_record_for_somebody_else_is_refused() -> None:
    """A peer may provide for itself only: a record that names another one is dropped and
    counted."""
    async with cluster(1) as nodes:

        async def talk(host: Any, peer: ID) -> list[Any]:
            other = compat.build_host(load_or_create(None), announce=list).get_id()
            message = Message(type=Message.ADD_PROVIDER, key=record_key(name_hash("k")))
            entry = message.providerPeers.add()
            entry.id = other.to_bytes()
            entry.addrs.append(multiaddr("127.0.0.1", 1).to_bytes())
            stream = await host.new_stream(peer, [kademlia.PROTOCOL])
            raw = message.SerializeToString()
            await stream.write(bytes([len(raw)]) + raw)
            await stream.close()
            async with kademlia.KademliaClient(host).running() as client:
                return await client.get_providers(peer, name_hash("k"))

        assert await asyncio.to_thread(_as_stranger, nodes[0].multiaddr, talk) == []
        assert nodes[0].dropped["foreign-record"] == 1


async def test_a_standard_peer_is_served_and_believed() -> None:
    """A node without the announce protocol gets provider records without loss, and its own are
    found here."""
    async with cluster(1) as nodes:
        await nodes[0].router.advertise(KEYS[:500])

        async def talk(host: Any, peer: ID) -> int:
            got: set[bytes] = set()

            def provide(sender: ID, key: bytes, addresses: Any) -> bool:
                got.add(key)
                return True

            answers = kademlia.KademliaBackend(
                lambda key: [], lambda raw, asking: [], provide, lambda reason: None
            )
            host.set_stream_handler(
                kademlia.PROTOCOL, kademlia.KademliaServer(host, answers).handle
            )
            await kademlia.KademliaClient(host).add_providers(
                peer,
                [name_hash(f"mine {number}") for number in range(300)],
                multiaddrs.own_addresses(host),
            )
            with trio.move_on_after(15):
                while len(got) < 500:
                    await trio.sleep(0.02)
            assert got == {name_hash(key) for key in KEYS[:500]}
            return len(got)

        task = asyncio.create_task(asyncio.to_thread(_as_stranger, nodes[0].multiaddr, talk))
        await until(lambda: nodes[0].router.records() == 300)
        assert len(await found(nodes[0].router, "mine 299")) == 1
        assert await task == 500
        await until(lambda: not nodes[0].router.connected())
        assert await found(nodes[0].router, "mine 299") == []


async def test_a_peer_is_asked_where_it_is_not_where_it_says() -> None:
    """A registry's address that the peer's identity does not answer at is never asked: it may be
    anybody's."""
    victim = Node()
    async with victim.router.running():
        liar = Node(registry_host="127.0.0.3", bootstrap=[victim.multiaddr])
        moved = Node(host="127.0.0.2", registry_host="", bootstrap=[victim.multiaddr])
        async with liar.router.running(), moved.router.running():
            await liar.router.advertise(KEYS[:1])
            await moved.router.advertise(KEYS[1:2])

            async def where(key: str) -> list[str]:
                return [peer.host for peer in await found(victim.router, key)]

            async def is_at(key: str, host: str) -> bool:
                return await where(key) == [host]

            # It connects from 127.0.0.1, as from a router that rewrites addresses, and listens on
            # another address.
            await until(lambda: is_at(KEYS[1], "127.0.0.2"))
            await until(lambda: is_at(KEYS[0], "127.0.0.1"))


async def test_a_password_is_for_peers_that_know_it() -> None:
    """Who says hello proves nothing; who knows the password does, and standard peers of it are not
    told either."""
    async with cluster(2, password=b"node:secret") as [a, b]:
        stranger = Node(bootstrap=[a.multiaddr], password=b"node:other")
        async with stranger.router.running():
            for node in (b, stranger):
                await node.router.advertise(KEYS[:1])
            await until(lambda: _holders(a, {b.port: True, stranger.port: False}))


async def _holders(node: Node, expected: dict[int, bool]) -> bool:
    return {
        peer.port: peer.knows_password for peer in await found(node.router, KEYS[0])
    } == expected


async def test_nodes_with_one_identity_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one that dials the other, and by a third that both are connected with; a restarted
    node is no twin."""
    monkeypatch.setattr(duplicate_identities, "PATIENCE", 1.0)
    third = Node()
    first = Node(bootstrap=[third.multiaddr])
    twin = Node(key=first.key, bootstrap=[first.multiaddr, third.multiaddr])
    async with third.router.running():
        async with first.router.running():
            await until(lambda: third.router.connected() == [first.router.id])
            assert third.router.duplicate_identities() == {}
            async with twin.router.running():
                await until(lambda: list(twin.router.duplicate_identities()) == [first.multiaddr])
                await until(lambda: list(third.router.duplicate_identities()) == [first.router.id])
        alone = Node(key=first.key, bootstrap=[third.multiaddr])
        async with alone.router.running():
            await until(lambda: bool(alone.router.connected()))
            assert alone.router.duplicate_identities() == {}
