"""Real nodes beside go-libp2p and its Kademlia DHT, which Spegel is made of."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.go_peer import GO_IS_MISSING, GoPeer, GoPeerError, build, running
from tests.support.images import image, write_layout
from tests.support.processes import Process, until
from tests.support.routers import free_port

pytestmark = pytest.mark.skipif(GO_IS_MISSING, reason="there is no Go to build the peer with")

NAME = "registry.example/team/app:1"


class OurNode:
    """A node with a layout, as a process of its own."""

    def __init__(self, folder: Path, *, bootstrap: Sequence[str]) -> None:
        self.registry, self.router, self.metrics = (free_port() for _ in range(3))
        self.layout = folder / "layout"
        self.process = Process(
            command=[
                *(sys.executable, "-m", "spegel_py", "registry"),
                *("--oci-layout", str(self.layout)),
                *("--registry-addr", f"127.0.0.1:{self.registry}"),
                *("--router-addr", f"127.0.0.1:{self.router}"),
                *("--metrics-addr", f"127.0.0.1:{self.metrics}"),
                *("--bootstrap-kind", "static", "--log-level", "DEBUG"),
                *(("--static-bootstrap-peers", ",".join(bootstrap)) if bootstrap else ()),
            ],
            log=folder / "node.log",
        )

    async def start(self) -> None:
        async def is_up() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.router)
            except OSError:
                return False
            writer.close()
            return True

        await self.process.start(is_up, deadline=30.0)

    async def get(self, path: str) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            url = f"http://127.0.0.1:{self.metrics}{path}"
            with urllib.request.urlopen(url, timeout=10) as response:
                found: dict[str, Any] = json.load(response)
                return found

        return await asyncio.to_thread(ask)

    async def state(self) -> dict[str, Any]:
        return await self.get("/debug/state")

    async def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.router}/p2p/{(await self.state())['id']}"

    async def peers(self) -> set[str]:
        return {peer["id"] for peer in (await self.state())["peers"]}

    async def holders(self, key: str) -> set[str]:
        return {peer["id"] for peer in (await self.get(f"/debug/resolve?key={key}"))["peers"]}


@pytest.fixture(scope="module")
def program() -> str:
    return asyncio.run(build())


@pytest.fixture
async def go(program: str) -> AsyncIterator[GoPeer]:
    async with running(program) as peer:
        yield peer


@asynccontextmanager
async def our_node(folder: Path, *, bootstrap: Sequence[str] = ()) -> AsyncIterator[OurNode]:
    """Run a node that holds one image."""
    folder.mkdir(exist_ok=True)
    node = OurNode(folder, bootstrap=bootstrap)
    write_layout(node.layout, {NAME: image()})
    await node.start()
    try:
        yield node
    finally:
        await node.process.end()


@pytest.fixture(params=["we dial", "it dials"])
async def pair(
    request: pytest.FixtureRequest, go: GoPeer, tmp_path: Path
) -> AsyncIterator[tuple[OurNode, GoPeer]]:
    """A connected node and Go peer; either of them has opened the connection."""
    dials = request.param == "we dial"
    async with our_node(tmp_path / "node", bootstrap=[go.address] if dials else []) as node:
        if not dials:
            await go.ask("connect", await node.address())

        async def know_each_other() -> bool:
            return await node.peers() == {go.id} and bool((await go.ask("peers"))["table"])

        await until(know_each_other, deadline=30.0)
        yield node, go


async def test_each_side_knows_the_other(pair: tuple[OurNode, GoPeer]) -> None:
    """Noise, yamux, identify and ping: it lists our protocols, and we answer its pings."""
    node, go = pair
    own = (await node.state())["id"]
    assert (await go.ask("peers"))["peers"] == [own]
    protocols = (await go.ask("protocols", own))["protocols"]
    assert {"/spegel/kad/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"} <= set(protocols)
    for _ in range(20):  # each ping is a stream of its own
        assert 0 <= (await go.ask("ping", own))["seconds"] < 10


async def test_it_finds_what_we_hold(pair: tuple[OurNode, GoPeer]) -> None:
    """Our provider records are in its DHT: tag and digests."""
    node, go = pair
    own = (await node.state())["id"]
    for key in (NAME, *(str(blob.digest) for blob in image().blobs)):

        async def finds(key: str = key) -> bool:
            return bool((await go.ask("find", key))["providers"] == [own])

        await until(finds, deadline=30.0)


async def test_we_find_what_it_holds(pair: tuple[OurNode, GoPeer]) -> None:
    """Its provider records reach us, and are gone with it."""
    node, go = pair
    other = "registry.example/team/other:1"
    await go.ask("provide", other)

    async def is_found() -> bool:
        return await node.holders(other) == {go.id}

    await until(is_found, deadline=30.0)
    await go.kill()

    async def is_gone() -> bool:
        return not await node.holders(other) and not await node.peers()

    await until(is_gone, deadline=30.0)


async def test_two_of_ours_meet_through_it(program: str, tmp_path: Path) -> None:
    """They know only the Go peer, and are told of each other by its DHT."""
    async with AsyncExitStack() as stack:
        go = await stack.enter_async_context(running(program))
        nodes = [
            await stack.enter_async_context(
                our_node(tmp_path / f"node{number}", bootstrap=[go.address])
            )
            for number in range(2)
        ]

        async def all_know_all() -> bool:
            return [len(await node.peers()) for node in nodes] == [2, 2]

        await until(all_know_all, deadline=60.0)
        others = {(await node.state())["id"] for node in nodes}

        async def it_finds_both() -> bool:
            return set((await go.ask("find", NAME))["providers"]) == others

        await until(it_finds_both, deadline=30.0)


async def test_a_command_with_an_error_says_so(go: GoPeer) -> None:
    """So that no test takes an error for an empty answer."""
    with pytest.raises(GoPeerError, match="unknown command"):
        await go.ask("nonsense")
