"""Real nodes watch each other by pings: a frozen one is let go everywhere, and nobody else is."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from spegel_py.routing.libp2p.member_messages import MemberKind
from spegel_py.routing.libp2p.service import Service
from spegel_py.routing.libp2p.sharing import RARELY
from tests.benchmarks import routers as processes
from tests.support.routers import Node, cluster, until

KEYS = [f"key {number}" for number in range(5)]
KNOWN = 10.0
"""Seconds in which a silent node must be known everywhere: the objective of the drill."""


async def _offers(node: processes.RouterProcess, index: int, port: int) -> bool:
    [(ports, _)] = await node.do(do="lookup", keys=[KEYS[index]])
    return port in ports


async def _know_all(nodes: list[processes.RouterProcess]) -> bool:
    return all(
        [
            await _offers(node, index, holder.port)
            for node in nodes
            for index, holder in enumerate(nodes)
            if node is not holder
        ]
    )


@asynccontextmanager
async def _holders(count: int, **options: object) -> AsyncIterator[list[processes.RouterProcess]]:
    """Run nodes as processes, each of which holds a key that all others know."""
    async with processes.cluster(count, mesh_limit=128, **options) as nodes:  # type: ignore[arg-type]
        for node, key in zip(nodes, KEYS, strict=False):
            await node.do(do="advertise", keys=[key])
        await until(lambda: _know_all(nodes))
        yield nodes


async def _freeze(nodes: list[processes.RouterProcess], victim: int) -> None:
    """Stop a node, and return when all others have let go of it, and of nobody else."""
    frozen = nodes[victim]
    others = [node for node in nodes if node is not frozen]

    async def is_known() -> bool:
        return not any([await _offers(node, victim, frozen.port) for node in others])

    frozen.signal(signal.SIGSTOP)
    try:
        await until(is_known, timeout=KNOWN)
        assert [(await node.do(do="stats"))["peers"] for node in others] == [len(others) - 1] * len(
            others
        )
    finally:
        frozen.signal(signal.SIGCONT)
    await until(lambda: _know_all(nodes))


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_a_frozen_node_is_let_go_everywhere_and_comes_back(count: int) -> None:
    """The kernel of a stopped process acknowledges everything, so only its silence shows; with two
    nodes there is no third to ask."""
    async with _holders(count) as nodes:
        await _freeze(nodes, count - 1)


@pytest.mark.parametrize("victim", [1, 2], ids=["new", "old"])
async def test_mixed_versions_watch_each_other(victim: int) -> None:
    """An older node is told of a heartbeat every four seconds, and gets it; it is pinged, and its
    heartbeats are listened to."""
    async with _holders(3, silent_about_pings=[2]) as nodes:
        await _freeze(nodes, victim)


async def test_nodes_that_ping_announce_rarely_and_older_ones_hear_them_often() -> None:
    """Each peer is told the interval that it will see."""
    async with cluster(2, interval=0.5) as nodes:
        older = Node(bootstrap=[nodes[0].multiaddr], interval=0.5, pings=False)
        async with older.router.running():
            await until(lambda: len(older.router.connected()) == 2)

            def told(node: Node) -> dict[str, float | None]:
                return {each.id: each.interval for each in node.router._table.members(0.0)}

            first, second = (node.router.id for node in nodes)
            rarely = 0.5 * RARELY
            await until(lambda: told(nodes[0]) == {second: rarely, older.router.id: 0.5})
            await until(lambda: told(older) == {first: 0.5, second: 0.5})
            members = {each.id: each for each in nodes[0].router.members()}
            assert members[second].interval is None, "it sends no heartbeats"
            assert members[older.router.id].interval == 0.5
            for _ in range(40):
                heard = [each.heard for each in older.router.members()]
                assert all(each is not None and each < 1.0 for each in heard), heard
                await asyncio.sleep(0.05)


async def test_a_stranger_has_no_living_peer_dropped() -> None:
    """However often it reports a peer that answers: each node pings it itself, and goes on."""
    async with cluster(3, interval=0.5) as nodes:
        accuser, judge, accused = nodes
        await until(lambda: _is_helper(accuser, judge) and _is_helper(accuser, accused))

        async def accuse(service: Service) -> None:
            for _ in range(200):
                service._mesh.prober._start_asking(
                    accused.router.id, judge.router.id, MemberKind.SUSPECT
                )

        for _ in range(5):
            await accuser.router._side.call(accuse)
            await asyncio.sleep(0.2)
        assert set(judge.router.connected()) == {accuser.router.id, accused.router.id}
        assert [each.left for each in judge.router.members()] == [None, None]


def _is_helper(node: Node, other: Node) -> bool:
    service = node.router._side.service
    watched = service.watched() if service is not None else {}
    return other.router.id in watched and watched[other.router.id].pings_too


async def test_a_silent_peer_is_shown_as_suspected_before_it_goes() -> None:
    """Health takes it away from pulls a few seconds before the router lets it go; the callback
    tells that something changed."""
    async with cluster(3, interval=0.5) as nodes:
        await until(lambda: _is_helper(nodes[0], nodes[2]))
        changed = threading.Event()
        nodes[0].router.on_change = changed.set
        victim, end = nodes[2].router, threading.Event()
        await victim.hang(end.wait)

        def suspected() -> bool:
            return any(
                each.left is not None and each.id == victim.id for each in nodes[0].router.members()
            )

        try:
            await until(suspected, timeout=KNOWN)
            assert changed.is_set()
            assert victim.id in nodes[0].router.connected()
            await until(lambda: victim.id not in nodes[0].router.connected(), timeout=KNOWN)
            assert nodes[1].router.id in nodes[0].router.connected()
        finally:
            end.set()


async def test_a_registry_that_does_not_answer_is_reported_to_all() -> None:
    """So one node's failed checks lead to checks by all others, which need not check everybody."""
    async with cluster(3, interval=0.5) as nodes:
        await until(lambda: _is_helper(nodes[0], nodes[1]))
        nodes[0].router.report_refusal(nodes[2].router.id)

        def reported() -> list[str]:
            return [each.id for each in nodes[1].router.members() if each.refused is not None]

        await until(lambda: reported() == [nodes[2].router.id])
        assert all(each.refused is None for each in nodes[2].router.members())
