"""One suite for every Router: in memory, libp2p with everything told to all, libp2p above the mesh
limit (one hop)."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from spegel_py.routing.base import Peer, Router
from spegel_py.routing.memory import MemoryNetwork
from tests.support.routers import cluster, found, until


@dataclass
class Three:
    """Three routers that know each other, and the ports they go by."""

    routers: list[Router]
    ports: list[int]
    is_by_hop: bool = False


async def _memory() -> AsyncIterator[Three]:
    network = MemoryNetwork()
    peers = [Peer(f"peer-{number}", "127.0.0.1", 5000 + number) for number in range(3)]
    yield Three([network.join(peer) for peer in peers], [peer.port for peer in peers])


async def _libp2p_all() -> AsyncIterator[Three]:
    async with cluster(3) as nodes:
        yield Three([node.router for node in nodes], [node.registry_port for node in nodes])


async def _libp2p_hop() -> AsyncIterator[Three]:
    async with cluster(3, mesh_limit=0, replication=1) as nodes:
        yield Three(
            [node.router for node in nodes], [node.registry_port for node in nodes], is_by_hop=True
        )


@pytest.fixture(
    params=[_memory, _libp2p_all, _libp2p_hop], ids=["memory", "libp2p-all", "libp2p-hop"]
)
async def three(request: pytest.FixtureRequest) -> AsyncIterator[Three]:
    make: Callable[[], AsyncIterator[Three]] = request.param
    async for routers in make():
        yield routers


def finds(
    router: Router, key: str, expected: set[int], *, max_age: float = math.inf
) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return {
            peer.port async for peer in router.lookup(key, limit=8, max_age=max_age)
        } == expected

    return check


async def test_what_one_advertises_the_others_find(three: Three) -> None:
    """A key advertised by one router leads every other one to it."""
    await three.routers[0].advertise(["sha256:aa", "registry.example/app:1"])
    for router in three.routers[1:]:
        await until(finds(router, "sha256:aa", {three.ports[0]}))
        await until(finds(router, "registry.example/app:1", {three.ports[0]}))


async def test_nobody_finds_itself(three: Three) -> None:
    """A router never yields the node it belongs to."""
    await three.routers[0].advertise(["k"])
    await until(finds(three.routers[1], "k", {three.ports[0]}))
    assert await found(three.routers[0], "k") == []


async def test_all_holders_are_found_once_each(three: Three) -> None:
    """Several holders are all found, each once."""
    await three.routers[0].advertise(["k"])
    await three.routers[1].advertise(["k"])
    await until(finds(three.routers[2], "k", {three.ports[0], three.ports[1]}))
    ids = [peer.id for peer in await found(three.routers[2], "k")]
    assert len(ids) == len(set(ids)) == 2


async def test_a_limit_is_kept(three: Three) -> None:
    """No more peers come than were asked for."""
    await three.routers[0].advertise(["k"])
    await three.routers[1].advertise(["k"])
    await until(finds(three.routers[2], "k", {three.ports[0], three.ports[1]}))
    assert len(await found(three.routers[2], "k", limit=1)) == 1


async def test_what_is_withdrawn_is_not_found(three: Three) -> None:
    """A withdrawn key is not found within two seconds; other keys stay."""
    await three.routers[0].advertise(["k", "stays"])
    await until(finds(three.routers[1], "k", {three.ports[0]}))
    await three.routers[0].withdraw(["k"])
    await until(finds(three.routers[1], "k", set()), timeout=2.0)
    await until(finds(three.routers[2], "k", set()), timeout=2.0)
    assert await finds(three.routers[1], "stays", {three.ports[0]})()


async def test_an_unknown_key_finds_nobody(three: Three) -> None:
    """A key that nobody advertised yields nothing, and ends."""
    assert await found(three.routers[0], "sha256:nobody") == []


async def test_advertising_twice_is_advertising_once(three: Three) -> None:
    """Keys may be advertised again, and one withdrawal takes them away."""
    await three.routers[0].advertise(["k"])
    await three.routers[0].advertise(["k"])
    await until(finds(three.routers[1], "k", {three.ports[0]}))
    await three.routers[0].withdraw(["k"])
    await until(finds(three.routers[1], "k", set()), timeout=2.0)


async def test_a_tag_that_was_pulled_too_long_ago_is_not_found(three: Three) -> None:
    """A peer that says that it pulled a tag before the limit is left out, until it pulls it again.

    Above the mesh limit the peer asked does not say when others pulled it: there the answer itself
    is looked at."""
    tag, now = "registry.example/app:1", time.time()
    await three.routers[0].advertise([tag], pulled={tag: now - 3600})
    await until(finds(three.routers[1], tag, {three.ports[0]}))
    if not three.is_by_hop:
        await until(finds(three.routers[1], tag, set(), max_age=1800))
    await three.routers[0].advertise([tag], pulled={tag: now})
    await until(finds(three.routers[1], tag, {three.ports[0]}, max_age=1800))
    await three.routers[0].advertise(["sha256:aa"])
    await until(finds(three.routers[1], "sha256:aa", {three.ports[0]}, max_age=0))


async def test_a_lookup_may_be_left_half_way(three: Three) -> None:
    """A caller that takes one peer and leaves costs nothing afterwards."""
    await three.routers[0].advertise(["k"])
    await three.routers[1].advertise(["k"])
    await until(finds(three.routers[2], "k", {three.ports[0], three.ports[1]}))
    lookup = three.routers[2].lookup("k", limit=8)
    async for _ in lookup:
        break
    await lookup.aclose()  # type: ignore[attr-defined]  # every implementation is an async generator
    assert len(await found(three.routers[2], "k")) == 2
