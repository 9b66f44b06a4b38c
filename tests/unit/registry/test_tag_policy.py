"""Tags that come from their registry first, and the one digest of a HEAD and its GET."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from spegel_py.mirror.freshness import Freshness, TagPolicy
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.registry import pinned_tags
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.test_relayed import MANIFEST, TAG

NAME = "r.io/app:v1"
OTHER = MANIFEST + b"\n"


@dataclass
class Registry:
    """Whether the registry answers. Its state is asked for at every pull."""

    answers: bool = True

    def reach(self) -> RegistryReach:
        ticks = iter(range(0, 10**9, 10**3))
        return RegistryReach(probe=lambda registry: self.answers, clock=lambda: float(next(ticks)))


async def status(node: Node, target: str = TAG, *lines: str, method: str = "GET") -> int:
    return (await (await node.client()).ask(method, target, *lines)).status


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "through a peer"])
async def test_a_tag_comes_from_the_registry_while_that_answers(
    start: NodeFactory, is_own: bool
) -> None:
    """Its digest comes from nodes all the same. Without the registry, any age will do."""
    registry = Registry()
    options = {"freshness": Freshness(ttl=60), "tag_policy": TagPolicy.UPSTREAM_FIRST}
    async with (
        start("holder", reach=registry.reach(), **options) as holder,
        start("other", reach=registry.reach(), **options) as other,
    ):
        asked = holder if is_own else other
        digest = holder.store.add(MANIFEST)
        old = time.time() - 7200
        holder.store.tag(NAME, digest, pulled=old)
        router = holder.network.join(holder.peer)
        await router.advertise([NAME, str(digest)], pulled={NAME: old})
        for registry.answers, expected in ((True, 404), (False, 200), (True, 404)):
            assert await status(asked, method="HEAD") == expected
            assert await status(asked, f"/v2/app/manifests/{digest}?ns=r.io") == 200


async def test_a_peer_gets_a_tag_whatever_the_policy(start: NodeFactory) -> None:
    """Its own policy decides."""
    options = {"reach": Registry().reach(), "tag_policy": TagPolicy.UPSTREAM_FIRST}
    async with start(**options) as node:
        node.store.tag(NAME, node.store.add(MANIFEST))
        assert await status(node, TAG, "X-Spegel-Mirrored: true") == 200
        assert await status(node) == 404


async def test_a_tag_that_was_refused_counts_as_seen_at_the_registry(start: NodeFactory) -> None:
    """The runtime's next pull of it has asked there."""
    freshness, now = Freshness(ttl=60), time.time()
    options = {"reach": Registry().reach(), "tag_policy": TagPolicy.UPSTREAM_FIRST}
    freshness.record_answer(NAME, now - 7200)
    async with start(freshness=freshness, **options) as node:
        assert await status(node) == 404
        assert freshness.last_seen(NAME, time.time()) >= now


async def test_a_head_and_its_get_have_one_digest(
    start: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the tag moves in between; a later pull gets the new digest."""
    async with start() as node:
        first, second = node.store.add(MANIFEST), node.store.add(OTHER)
        node.store.tag(NAME, first)
        client = await node.client()
        for method, moves_to in (("HEAD", second), ("GET", first)):
            answer = await client.ask(method, TAG)
            assert answer.headers["docker-content-digest"] == str(first)
            node.store.tag(NAME, moves_to)
        node.store.tag(NAME, second)
        assert (await client.ask("HEAD", TAG)).headers["docker-content-digest"] == str(second)
        monkeypatch.setattr(pinned_tags, "WINDOW", 0.0)
        assert (await client.ask("HEAD", TAG)).headers["docker-content-digest"] == str(second)
        node.store.tag(NAME, first)
        assert (await client.ask("GET", TAG)).headers["docker-content-digest"] == str(first)


async def test_a_get_without_a_head_is_bound_by_nothing(start: NodeFactory) -> None:
    async with start() as node:
        first, second = node.store.add(MANIFEST), node.store.add(OTHER)
        client = await node.client()
        for digest in (first, second):
            node.store.tag(NAME, digest)
            answer = await client.ask("GET", TAG)
            assert answer.headers["docker-content-digest"] == str(digest)


async def test_of_two_digests_the_young_one_is_answered_in_an_outage(start: NodeFactory) -> None:
    """Some node saw where the tag had moved before the registry went away."""
    options = {
        "reach": Registry(answers=False).reach(),
        "freshness": Freshness(ttl=60),
        "tag_policy": TagPolicy.UPSTREAM_FIRST,
    }
    async with start("old") as old, start("young") as young, start("own", **options) as own:
        now = time.time()
        for node, data, pulled in ((old, OTHER, now - 7200), (young, MANIFEST, now - 5)):
            node.store.tag(NAME, node.store.add(data), pulled=pulled)
            router = node.network.join(node.peer)
            await router.advertise([NAME], pulled={NAME: pulled})
        own.store.tag(NAME, own.store.add(OTHER), pulled=now - 7200)
        for _ in range(5):
            assert (await (await own.client()).ask("GET", TAG)).body == MANIFEST
