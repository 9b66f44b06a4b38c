"""Real nodes beside go-libp2p and its Kademlia DHT, which Spegel is made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node, layout
from tests.interop.go_peer import GO_IS_MISSING, GoPeer, GoPeerError, build, running
from tests.support.images import image
from tests.support.processes import until

pytestmark = [
    pytest.mark.skipif(GO_IS_MISSING, reason="there is no Go to build the peer with"),
    pytest.mark.timeout(600),  # the first test builds the peer
]

NO_FLAGS: Mapping[str, object] = MappingProxyType({})
KEY, OTHER_KEY = "1a" * 32, "2b" * 32
NAME = "registry.example/team/app:1"


async def ask(node: Node, path: str) -> dict[str, Any]:
    """Return the JSON that a node's metrics port answers."""

    def read() -> dict[str, Any]:
        with Client(node.metrics) as client:
            status, body = client.read(path)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    return await asyncio.to_thread(read)


async def state(node: Node) -> dict[str, Any]:
    return await ask(node, "/debug/state")


async def address(node: Node) -> str:
    return f"/ip4/127.0.0.1/tcp/{node.router}/p2p/{(await state(node))['id']}"


async def peers(node: Node) -> set[str]:
    return {peer["id"] for peer in (await state(node))["peers"]}


async def holders(node: Node, key: str) -> set[str]:
    return {peer["id"] for peer in (await ask(node, f"/debug/resolve?key={key}"))["peers"]}


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture(scope="module")
def program() -> str:
    return asyncio.run(build())


@pytest.fixture
async def go(program: str) -> AsyncIterator[GoPeer]:
    async with running(program) as peer:
        yield peer


@asynccontextmanager
async def our_node(
    folder: Path, *, bootstrap: GoPeer | None = None, flags: Mapping[str, object] = NO_FLAGS
) -> AsyncIterator[Node]:
    """Run a node that holds one image, until its libp2p side listens too."""
    store = {**layout(folder / "layout", {NAME: image()}), **flags}
    node = Node(folder=folder, store=store, bootstrap=bootstrap.port if bootstrap else None)
    await node.start()
    try:
        await until(lambda: listens(node.router), deadline=30.0)
        yield node
    finally:
        await node.process.end()


@pytest.fixture(params=["we dial", "it dials"])
async def pair(
    request: pytest.FixtureRequest, go: GoPeer, tmp_path: Path
) -> AsyncIterator[tuple[Node, GoPeer]]:
    """A connected node and Go peer; either of them has opened the connection."""
    dials = request.param == "we dial"
    async with our_node(tmp_path / "node", bootstrap=go if dials else None) as node:
        if not dials:
            await go.ask("connect", await address(node))

        async def know_each_other() -> bool:
            return await peers(node) == {go.id} and bool((await go.ask("peers"))["table"])

        await until(know_each_other, deadline=30.0)
        yield node, go


async def test_each_side_knows_the_other(pair: tuple[Node, GoPeer]) -> None:
    """Noise, yamux, identify and ping: it lists our protocols, and we answer its pings."""
    node, go = pair
    own = (await state(node))["id"]
    assert (await go.ask("peers"))["peers"] == [own]
    protocols = (await go.ask("protocols", own))["protocols"]
    assert {"/spegel/kad/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"} <= set(protocols)
    for _ in range(20):  # each ping is a stream of its own
        assert 0 <= (await go.ask("ping", own))["seconds"] < 10


async def test_it_finds_what_we_hold(pair: tuple[Node, GoPeer]) -> None:
    """Our provider records are in its DHT: tag and digests."""
    node, go = pair
    own = (await state(node))["id"]
    for key in (NAME, *(str(blob.digest) for blob in image().blobs)):

        async def finds(key: str = key) -> bool:
            return bool((await go.ask("find", key))["providers"] == [own])

        await until(finds, deadline=30.0)


async def test_we_find_what_it_holds(pair: tuple[Node, GoPeer]) -> None:
    """Its provider records reach us, and are gone with it."""
    node, go = pair
    other = "registry.example/team/other:1"
    await go.ask("provide", other)

    async def is_found() -> bool:
        return await holders(node, other) == {go.id}

    await until(is_found, deadline=30.0)
    await go.kill()

    async def is_gone() -> bool:
        return not await holders(node, other) and not await peers(node)

    await until(is_gone, deadline=30.0)


async def test_two_of_ours_meet_through_it(program: str, tmp_path: Path) -> None:
    """They know only the Go peer, and are told of each other by its DHT."""
    async with AsyncExitStack() as stack:
        go = await stack.enter_async_context(running(program))
        nodes = [
            await stack.enter_async_context(our_node(tmp_path / f"node{number}", bootstrap=go))
            for number in range(2)
        ]

        async def all_know_all() -> bool:
            return [len(await peers(node)) for node in nodes] == [2, 2]

        await until(all_know_all, deadline=60.0)
        others = {(await state(node))["id"] for node in nodes}

        async def it_finds_both() -> bool:
            return set((await go.ask("find", NAME))["providers"]) == others

        await until(it_finds_both, deadline=30.0)


@pytest.mark.parametrize("dials", ["we dial", "it dials"])
@pytest.mark.parametrize("given", [KEY, OTHER_KEY, None], ids=["same", "other", "none"])
async def test_it_is_a_peer_only_with_a_key_of_the_cluster(
    program: str, tmp_path: Path, dials: str, given: str | None
) -> None:
    """The private networks of go-libp2p and ours are the same."""
    swarm_key = None
    if given is not None:
        swarm_key = tmp_path / "swarm.key"
        swarm_key.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{given}\n")
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    async with running(program, swarm_key=swarm_key) as go:
        bootstrap = go if dials == "we dial" else None
        flags = {"cluster-keys": keys}
        async with our_node(tmp_path / "node", bootstrap=bootstrap, flags=flags) as node:
            if dials == "it dials" and given == KEY:
                await go.ask("connect", await address(node))
            elif dials == "it dials":
                with pytest.raises(GoPeerError):
                    await go.ask("connect", await address(node))
            if given == KEY:
                await until(lambda: _has_peers(node, {go.id}), deadline=30.0)
                await until(lambda: _is_found_by(go, node), deadline=30.0)
            else:
                said = "does not accept" if dials == "we dial" else "stranger refused"
                await until(lambda: _has_said(node, said), deadline=30.0)
                assert await peers(node) == set()


async def test_a_command_with_an_error_says_so(go: GoPeer) -> None:
    """So that no test takes an error for an empty answer."""
    with pytest.raises(GoPeerError, match="unknown command"):
        await go.ask("nonsense")


async def _has_peers(node: Node, expected: set[str]) -> bool:
    return await peers(node) == expected


async def _is_found_by(go: GoPeer, node: Node) -> bool:
    found = (await go.ask("find", NAME))["providers"]
    return bool(found == [(await state(node))["id"]])


async def _has_said(node: Node, text: str) -> bool:
    return text in node.process.output
