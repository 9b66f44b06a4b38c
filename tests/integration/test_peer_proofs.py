"""Proofs between peers with real nodes: mixed, rogue, restarted, and with clocks far apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from spegel_py.routing.peer_proofs import KEY_SECONDS, NodeSecret
from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node as NodeProcess
from tests.benchmarks.nodes import layout
from tests.integration.cluster import blob_path, everybody, found, heal, registry_away, state
from tests.integration.conftest import Labs
from tests.support import processes
from tests.support.clocks import SettableClock
from tests.support.images import image
from tests.support.routers import Node, until
from tests.unit.mirror.peers import FakePeer

IMAGE = image(layers=2, size=300_000)
TAG = "registry.example/app:1"
MANIFEST = "/v2/app/manifests/1?ns=registry.example"


async def test_a_key_is_told_to_each_peer_and_anew_each_hour() -> None:
    """The peer makes proofs that the teller takes for its own; a peer that is gone has no key."""
    ahead = [0.0]
    secret = NodeSecret(clock=lambda: time.monotonic() + ahead[0])
    teller = Node(secret=secret, interval=0.5, pings=False)
    async with teller.router.running():
        told = Node(bootstrap=[teller.multiaddr])
        async with told.router.running():
            for hour in range(4):
                await until(lambda hour=hour: _hour(told, teller) == hour)
                key = told.router.http_key(teller.router.id)
                assert key is not None
                proof = key.prove(
                    told.router.id, method="GET", target="/", headers={}, now=time.monotonic()
                )
                assert secret.check(proof.header, method="GET", target="/", headers={}) == proof
                assert teller.router.is_member(told.router.id)
                assert teller.router.http_key(told.router.id) is None  # it tells none
                ahead[0] += KEY_SECONDS
        await until(lambda: not teller.router.is_member(told.router.id))
        assert told.router.http_key(teller.router.id) is None


PASSWORDS = [(b"u:old",), (b"u:old", b"u:new"), (b"u:new", b"u:old"), (b"u:new",)]
"""Those of a node at each of the guide's steps."""


@pytest.mark.parametrize(("before", "after"), list(pairwise(PASSWORDS)))
async def test_nodes_stay_members_while_the_password_is_replaced(
    before: tuple[bytes, ...], after: tuple[bytes, ...]
) -> None:
    """Nodes are restarted one after the other, so two of them are one step apart."""
    late = Node(password=before[0], other_passwords=before[1:], secret=NodeSecret())
    async with late.router.running():
        early = Node(
            bootstrap=[late.multiaddr],
            password=after[0],
            other_passwords=after[1:],
            secret=NodeSecret(),
        )
        async with early.router.running():
            await until(lambda: late.router.is_member(early.router.id))
            await until(lambda: early.router.is_member(late.router.id))


async def test_only_a_peer_that_knows_the_password_is_a_member() -> None:
    async with AsyncExitStack() as stack:
        node = Node(password=b"user:secret", secret=NodeSecret())
        await stack.enter_async_context(node.router.running())
        same = Node(bootstrap=[node.multiaddr], password=b"user:secret")
        other = Node(bootstrap=[node.multiaddr], password=b"user:other")
        for each in (same, other):
            await stack.enter_async_context(each.router.running())
        await until(lambda: node.router.is_member(same.router.id))
        await until(lambda: _hour(other, node) == 0)
        assert not node.router.is_member(other.router.id)


async def test_nodes_of_all_modes_share_as_far_as_they_may(tmp_path: Path) -> None:
    """A node without proofs gets content from one that prefers them, and gives it; one that
    requires them neither asks it nor answers it."""
    async with AsyncExitStack() as stack:
        holder = await _start(stack, tmp_path / "holder", has_image=True)
        off = await _start(stack, tmp_path / "off", holder, mode="off")
        strict = await _start(stack, tmp_path / "strict", holder, mode="require")
        for node in (off, strict):
            await _gets(node, MANIFEST)
            for layer in IMAGE.blobs[2:]:
                await _gets(node, f"/v2/app/blobs/{layer.digest}?ns=registry.example")
        assert await _proofs(strict, "answer", "right") >= 3
        assert await _proofs(holder, "request", "right") >= 3
        assert await _proofs(holder, "request", "missing") >= 3
        assert await _proofs(off, "answer", "right") == 0
        for node in (holder, strict):
            for message in ("request", "answer"):
                for result in ("wrong", "late"):
                    assert await _proofs(node, message, result) == 0
        alone = await _start(stack, tmp_path / "alone", off, has_image=True, mode="off")
        await holder.process.end()
        await _gets(off, MANIFEST)
        await processes.until(lambda: _misses(strict, MANIFEST), deadline=30.0)
        assert alone.pid


async def test_a_rogue_registry_is_not_believed(tmp_path: Path) -> None:
    """It answers a tag with a digest of its own, and cannot prove the answer: every pull goes on
    at the honest peer."""
    evil = image("evil")
    fake = FakePeer(evil.root.data, media_type=evil.media_type, digest=evil.root.digest)
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(fake.serve("rogue"))
        holder = await _start(stack, tmp_path / "holder", has_image=True)
        asking = await _start(stack, tmp_path / "asking", holder)
        rogue = Node(
            bootstrap=[f"/ip4/127.0.0.1/tcp/{asking.router}"],
            secret=NodeSecret(),
            registry_port=at.port,
        )
        await stack.enter_async_context(rogue.router.running())
        await rogue.router.advertise([TAG])
        await _gets(asking, MANIFEST)

        async def was_asked() -> bool:
            await _gets(asking, MANIFEST)
            return await _attempts(asking, "unproven") > 0

        await processes.until(was_asked, deadline=30.0)
        assert "peer not proven" in asking.process.output
        assert await _attempts(asking, "ok") > 0


async def test_pulls_go_on_while_a_peer_restarts(tmp_path: Path) -> None:
    """Its next life has another secret, and tells another key. No pull fails meanwhile."""
    async with AsyncExitStack() as stack:
        first = await _start(stack, tmp_path / "first", has_image=True)
        second = await _start(stack, tmp_path / "second", first, has_image=True)
        asking = await _start(stack, tmp_path / "asking", first)
        await _gets(asking, MANIFEST)
        async with _pulling(asking):
            for _ in range(2):
                await second.process.end()
                await second.join()
                before = await _proofs(second, "request", "right")

                async def is_asked(before: float = before) -> bool:
                    return await _proofs(second, "request", "right") > before

                await processes.until(is_asked, deadline=30.0)


async def test_clocks_ten_minutes_apart_do_not_matter(tmp_path: Path) -> None:
    """Before a node starts, and while it runs: proofs do not go by the time of day."""
    clock = SettableClock(tmp_path)
    await clock.build()
    async with AsyncExitStack() as stack:
        holder = await _start(stack, tmp_path / "holder", has_image=True)
        clock.set(600)
        asking = await _start(stack, tmp_path / "asking", holder, mode="require", clock=clock)
        await _gets(asking, MANIFEST)
        clock.set(-600)
        before = await _proofs(asking, "answer", "right")
        assert await _status(asking, MANIFEST) == 200
        assert await _proofs(asking, "answer", "right") > before
        assert await _proofs(holder, "request", "late") == 0


@pytest.mark.root
@pytest.mark.containerd
async def test_a_cluster_that_requires_proofs_serves_its_own_runtimes_only(labs: Labs) -> None:
    """Real containerds pull through their own nodes from peers. A machine without proofs gets
    nothing there, whatever it says it is."""
    lab = await labs(3)
    first, second, stranger = lab.nodes
    peers = everybody(lab)
    await asyncio.gather(
        *(
            node.start_spegel(static_bootstrap_peers=peers, peer_proofs=mode)
            for node, mode in ((first, "require"), (second, "require"), (stranger, "off"))
        )
    )
    await heal(lab)
    reference, one = lab.name("test/app:1"), image(layers=2, size=300_000)
    await lab.registry.push(reference, one)
    await first.cri.pull(reference)
    await found(second, reference, one.blobs[1:])
    async with registry_away(lab):
        await second.cri.pull(reference)
    path = blob_path(one.blobs[-1])
    for headers in ({}, {"X-Spegel-Mirrored": "true"}, {"X-Spegel-Proof": "1;a;0;0;0;0"}):
        answer = await stranger.get(path, host=first.address, headers=headers)
        assert answer.status == 401, headers
    assert (await stranger.get("/livez", host=first.address)).status == 200
    assert (await stranger.get(path)).status == 404
    proofs = {peer["address"]: peer["proofs"] for peer in (await state(first))["peers"]}
    assert proofs == {f"{second.address}:5000": True, f"{stranger.address}:5000": False}


async def _start(
    stack: AsyncExitStack,
    folder: Path,
    bootstrap: NodeProcess | None = None,
    *,
    has_image: bool = False,
    mode: str = "prefer",
    clock: SettableClock | None = None,
) -> NodeProcess:
    store = layout(folder / "layout", {TAG: IMAGE} if has_image else {})
    node = NodeProcess(
        folder=folder,
        store={**store, "peer-proofs": mode},
        bootstrap=bootstrap.router if bootstrap else None,
    )
    if clock is not None:
        node.process._command = [*clock.prefix, *node.process._command]
    stack.push_async_callback(node.process.end)
    await (node.join() if bootstrap else node.start())
    return node


@asynccontextmanager
async def _pulling(node: NodeProcess) -> AsyncIterator[None]:
    """Pull the manifest and a layer in turns while the block lasts; fails if a pull does."""
    paths = [MANIFEST, f"/v2/app/blobs/{IMAGE.blobs[-1].digest}?ns=registry.example"]
    is_over = False

    async def pull() -> None:
        while not is_over:
            for path in paths:
                assert await _status(node, path) == 200

    async with asyncio.TaskGroup() as group:
        task = group.create_task(pull())
        yield
        is_over = True
        await task


async def _gets(node: NodeProcess, path: str) -> None:
    async def is_there() -> bool:
        return await _status(node, path) == 200

    await processes.until(is_there, deadline=30.0)


async def _misses(node: NodeProcess, path: str) -> bool:
    return await _status(node, path) == 404


async def _status(node: NodeProcess, path: str) -> int:
    def ask() -> int:
        with Client(node.registry) as client:
            return client.get(path)[0]

    return await asyncio.to_thread(ask)


async def _proofs(node: NodeProcess, message: str, result: str) -> float:
    return await _sample(node, f'spegel_peer_proofs_total{{message="{message}",result="{result}"}}')


async def _attempts(node: NodeProcess, outcome: str) -> float:
    return await _sample(node, f'spegel_peer_attempts_total{{outcome="{outcome}"}}')


async def _sample(node: NodeProcess, name: str) -> float:
    """Return the value of a sample, 0 if there is none yet."""

    def ask() -> str:
        with Client(node.metrics) as client:
            return client.read("/metrics")[1].decode()

    page = await asyncio.to_thread(ask)
    found = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(found[0].split()[1]) if found else 0.0


def _hour(told: Node, teller: Node) -> int | None:
    key = told.router.http_key(teller.router.id)
    return key.hour if key else None
