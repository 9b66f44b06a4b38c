"""Nodes that share their pulls: each runtime's bytes, and the number of requests upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from spegel_py.inflight.message_fields import MessageError
from spegel_py.inflight.messages import Heartbeat, ParentFault, Role
from spegel_py.inflight.metrics import REASONS
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.inflight.rules import InFlightRules
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.routing.memory import MemoryNetwork
from tests.support.routers import until
from tests.unit.inflight.net import HASTY, TALKATIVE, Node, Upstream, start_node

LARGE = bytes(range(251)) * 40_000
"""More bytes than are verified before they are sent, so that they are relayed as they come.

They are enough for a crowd too.
"""

MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/octet-stream",
            "digest": str(Digest.of(b"{}")),
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": str(Digest.of(LARGE)),
                "size": len(LARGE),
            }
        ],
    }
).encode()

HALF = len(LARGE) // 2
DEADLINE = 30.0

Nodes = Callable[..., Awaitable[list[Node]]]


@pytest.fixture
def upstream() -> Upstream:
    return Upstream(LARGE)


@pytest.fixture
async def nodes(upstream: Upstream) -> AsyncIterator[Nodes]:
    """Start a number of nodes that all know each other."""
    network = MemoryNetwork()
    async with asyncio.timeout(DEADLINE), AsyncExitStack() as stack:

        async def start(count: int, rules: InFlightRules = TALKATIVE) -> list[Node]:
            nodes = [
                start_node(f"n{number}", network, upstream, rules=rules) for number in range(count)
            ]
            return [await stack.enter_async_context(node) for node in nodes]

        yield start


def ordered(nodes: list[Node], digest: Digest) -> list[Node]:
    """Return the nodes with the digest's coordinator last.

    It pulls too, but its death has tests of its own.
    """
    [first] = ranked_nodes(digest, [node.peer.id for node in nodes], 1)
    return sorted(nodes, key=lambda node: node.peer.id == first)


async def started(node: Node) -> asyncio.Task[bool]:
    """Let a node pull, and wait until it takes part."""
    pull = asyncio.create_task(node.pull(), name=f"pull {node.peer.id}")
    await until(lambda: node.upstream.digest in node.sharing.participations)
    return pull


async def reached(node: Node, count: int) -> None:
    """Wait until a runtime has this many bytes."""
    await until(lambda: len(node.got) >= count)


async def test_a_crowd_fetches_once(nodes: Nodes, upstream: Upstream) -> None:
    """Of four nodes that pull at the same time one goes upstream.

    Each byte comes from there once.
    """
    crowd = await nodes(4)
    pulls = [await started(node) for node in crowd]
    upstream.allow()
    assert await asyncio.gather(*pulls) == [True] * 4
    assert len(upstream.asked) == 1
    assert upstream.given == len(LARGE)
    assert sorted(node.answers[0] for node in crowd) == [200, 200, 200, 404]


async def test_each_gets_bytes_while_they_come_from_upstream(
    nodes: Nodes, upstream: Upstream
) -> None:
    """Before upstream has sent more than a half, the last node of the chain has that half."""
    crowd = await nodes(3)
    pulls = [await started(node) for node in crowd]
    upstream.allow(HALF)
    for node in crowd:
        await reached(node, HALF)
    assert not any(pull.done() for pull in pulls)
    upstream.allow()
    assert all(await asyncio.gather(*pulls))


async def test_who_is_sent_upstream_after_the_leader_died_goes_on_at_its_byte(
    nodes: Nodes, upstream: Upstream
) -> None:
    """Its body ends short, its resumed request gets 404, and upstream sends the rest.

    The other nodes notice nothing.
    """
    leader, *others = ordered(await nodes(4), upstream.digest)
    fetch = await started(leader)
    pulls = [await started(node) for node in others]
    upstream.allow(HALF)
    for node in others:
        await reached(node, HALF)
    await leader.die()
    fetch.cancel()
    upstream.allow()
    assert await asyncio.gather(*pulls) == [True] * 3
    [(_, zero), (promoted, offset)] = upstream.asked
    assert (zero, offset) == (0, HALF)
    for node in others:
        assert node.answers == ([200, 404] if node.peer.id == promoted else [200])


async def test_when_one_in_the_middle_dies_nobody_goes_upstream(
    nodes: Nodes, upstream: Upstream
) -> None:
    """A follower of the dead node gets the rest from another node, within the same answer."""
    first, middle, last, coordinator = ordered(await nodes(4), upstream.digest)
    pulls = {node.peer.id: await started(node) for node in (first, middle, last, coordinator)}
    upstream.allow(HALF)
    for node in (middle, last, coordinator):
        await reached(node, HALF)
    await middle.die()
    pulls.pop(middle.peer.id).cancel()
    upstream.allow()
    assert await asyncio.gather(*pulls.values()) == [True] * 3
    assert len(upstream.asked) == 1
    assert last.answers == coordinator.answers == [200]


async def test_when_upstream_refuses_the_leader_another_one_leads(
    nodes: Nodes, upstream: Upstream
) -> None:
    """A follower that waits for the first byte was promised nothing.

    It gets a 404, goes upstream itself, and feeds the other nodes.
    """
    leader, *others = await nodes(3)
    upstream.refuses.add(leader.peer.id)
    fetch = asyncio.create_task(leader.pull())
    await until(lambda: len(upstream.asked) == 1)
    pulls = [await started(node) for node in others]
    assert await fetch is False
    upstream.allow()
    assert await asyncio.gather(*pulls) == [True] * 2
    assert len(upstream.asked) == 2
    assert upstream.given == len(LARGE)


async def test_the_death_of_the_coordinator_costs_nothing(nodes: Nodes, upstream: Upstream) -> None:
    """The next coordinator knows the flight.

    A new node gets the content from a node that has some bytes.
    """
    *others, coordinator = ordered(await nodes(4), upstream.digest)
    pulls = [await started(node) for node in others[:2]]
    upstream.allow(HALF)
    await reached(others[1], HALF)
    await coordinator.die()
    pulls.append(await started(others[2]))
    upstream.allow()
    assert await asyncio.gather(*pulls) == [True] * 3
    assert len(upstream.asked) == 1


async def test_a_leader_that_stalls_gives_way(nodes: Nodes, upstream: Upstream) -> None:
    """While one node waits for upstream for ever, another node fetches the rest.

    All nodes but the first have it.
    """
    leader, *others = ordered(await nodes(3, HASTY), upstream.digest)
    fetch = await started(leader)
    pulls = [await started(node) for node in others]
    upstream.allow(HALF)
    for node in others:
        await reached(node, HALF)
    await until(lambda: len(upstream.asked) > 1)
    assert not fetch.done()
    upstream.allow()
    assert await asyncio.gather(*pulls, fetch) == [True] * 3


async def test_nothing_is_left_when_all_is_over(nodes: Nodes, upstream: Upstream) -> None:
    """No node takes part in the digest any more, and none of its files is open."""
    crowd = await nodes(3)
    pulls = [await started(node) for node in crowd]
    upstream.allow()
    await asyncio.gather(*pulls)
    await until(lambda: not any(node.sharing.participations for node in crowd))


UNHURRIED = replace(TALKATIVE, heartbeat=0.4, margin=0.1)
"""For tests of final heartbeats: a follower sends it at most 1.1 s after its last heartbeat."""


async def last_words(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[Heartbeat]:
    """Return a list that gets the final heartbeats that the node sends from now on."""
    words, tell = list[Heartbeat](), node.sharing.send_heartbeat

    async def heard(note: Heartbeat) -> float:
        if note.role in (Role.COMPLETE, Role.LEFT):
            words.append(note)
        return await tell(note)

    monkeypatch.setattr(node.sharing, "send_heartbeat", heard)
    return words


@pytest.mark.parametrize("is_advertised", [True, False])
async def test_a_follower_tells_of_its_end_late_and_only_what_nobody_finds_otherwise(
    nodes: Nodes, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, is_advertised: bool
) -> None:
    """Until then its coordinator sends other nodes to it all the same.

    A leader sends its final heartbeat at once.
    """
    leader, follower = ordered(await nodes(2, UNHURRIED), upstream.digest)
    led, followed = await last_words(leader, monkeypatch), await last_words(follower, monkeypatch)
    pulls = [await started(leader), await started(follower)]
    upstream.allow()
    assert all(await asyncio.gather(*pulls))
    await until(lambda: not leader.sharing.participations and not follower.sharing.participations)
    if not is_advertised:
        await follower.router.withdraw([str(upstream.digest)])
    assert [note.role for note in led] == [Role.COMPLETE]
    assert followed == []
    await asyncio.sleep(UNHURRIED.heartbeats_missed * UNHURRIED.heartbeat)
    assert [note.role for note in followed] == ([] if is_advertised else [Role.COMPLETE])


async def test_a_follower_that_pulls_again_does_not_tell_that_it_has_it(
    nodes: Nodes, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pending final heartbeat is not true any more."""
    leader, follower = ordered(await nodes(2, UNHURRIED), upstream.digest)
    words = await last_words(follower, monkeypatch)
    pulls = [await started(leader), await started(follower)]
    upstream.allow()
    assert all(await asyncio.gather(*pulls))
    await until(lambda: not follower.sharing.participations)
    await follower.router.withdraw([str(upstream.digest)])
    follower.ingests.begin(upstream.digest, total=len(LARGE))
    assert await follower.sharing.find_parent(upstream.digest) is not None
    await asyncio.sleep(UNHURRIED.heartbeats_missed * UNHURRIED.heartbeat)
    assert words == []


async def test_alone_a_node_asks_nobody(nodes: Nodes, upstream: Upstream) -> None:
    """Its runtime goes upstream at once."""
    [only] = await nodes(1)
    upstream.allow()
    assert await only.pull()
    assert only.answers == [404]


async def crowd_and_holder(nodes: Nodes) -> tuple[list[Node], Node]:
    """Start four nodes that all know the content's length.

    The last one returned holds the content.
    """
    holder, *crowd = await nodes(4)
    await holder.hold(LARGE, MANIFEST)
    for node in crowd:
        assert await node.read_manifest(Digest.of(MANIFEST)) == MANIFEST
    return crowd, holder


async def test_a_crowd_that_finds_one_holder_lines_up(nodes: Nodes, upstream: Upstream) -> None:
    """The nodes form a chain below the holder, so the holder sends the content once."""
    crowd, holder = await crowd_and_holder(nodes)
    assert all(await asyncio.gather(*(node.pull() for node in crowd)))
    assert upstream.asked == []
    assert len(LARGE) <= holder.served() < 1.5 * len(LARGE)
    assert [node.answers for node in crowd] == [[200]] * 3


async def test_who_cannot_be_lined_up_behind_is_passed_over(
    nodes: Nodes, upstream: Upstream
) -> None:
    """A node that was to fetch from the holder, and never did, has nothing to give.

    The holder has.
    """
    (idle, node, _), holder = await crowd_and_holder(nodes)
    idle.ingests.begin(upstream.digest, total=len(LARGE))
    assert await idle.sharing.find_parent_in_crowd(upstream.digest, offset=0, held=1) is None
    assert idle.sharing.is_leader(upstream.digest)
    assert await node.pull()
    assert upstream.asked == []
    assert holder.served() >= len(LARGE)


async def test_a_silent_coordinator_keeps_nobody_from_those_that_hold_it(
    nodes: Nodes, upstream: Upstream
) -> None:
    """A coordinator's answer is not waited for while holders are known."""
    crowd, holder = await crowd_and_holder(nodes)
    *others, coordinator = ordered([*crowd, holder], upstream.digest)
    node = next(each for each in others if each is not holder)
    node.network.silent.add(coordinator.peer.id)
    assert await asyncio.wait_for(node.pull(), node.sharing.rules.answer)
    assert upstream.asked == []
    assert not node.sharing.participations


async def test_who_asks_without_writing_is_no_source(nodes: Nodes, upstream: Upstream) -> None:
    """A client that is no runtime of this node is answered at once, and leads nobody.

    It may get content in flight.
    """
    runtime, other = ordered(await nodes(2), upstream.digest)
    assert await other.sharing.find_parent(upstream.digest) is None
    assert not other.sharing.participations
    pull = await started(runtime)
    source = await other.sharing.find_parent(upstream.digest)
    assert source is not None
    assert source.peer == runtime.peer
    assert not other.sharing.participations
    upstream.allow()
    assert await pull


async def test_roles_reasons_and_bytes_are_counted(nodes: Nodes, upstream: Upstream) -> None:
    """Metrics show each node's role, its reason to lead, and the bytes that upstream did not send.

    A node alone is counted too.
    """
    leader, follower = ordered(await nodes(2), upstream.digest)
    pulls = [await started(leader), await started(follower)]
    assert leader.count("spegel_in_flight_digests", role="lead") == 1
    assert follower.count("spegel_in_flight_digests", role="follow") == 1
    upstream.allow(HALF)
    await reached(follower, HALF)
    await leader.die()
    pulls[0].cancel()
    upstream.allow()
    assert await pulls[1]
    assert leader.count("spegel_in_flight_leads_total", reason="first") == 1
    failed = [
        follower.count("spegel_in_flight_leads_total", reason=reason)
        for reason in ("dead", "short")
    ]
    assert sum(failed) == 1
    assert follower.count("spegel_in_flight_bytes_total") == HALF


def test_every_reason_to_lead_has_a_label() -> None:
    """The metric's labels are the reasons that a node can have."""
    assert set(REASONS) == {"first"} | {why.value for why in ParentFault}


async def test_everybody_sees_the_tree_while_it_is_in_flight(
    nodes: Nodes, upstream: Upstream
) -> None:
    """Every node shows the whole tree, with the length and each node's progress.

    Afterwards there is no tree.
    """
    leader, *others = crowd = ordered(await nodes(4), upstream.digest)
    pulls = [await started(node) for node in crowd]
    upstream.allow(HALF)

    async def all_have_half() -> bool:
        [seen] = await leader.sharing.views()
        return [place.offset for place in seen.snapshot.places] == [HALF] * 4

    await until(all_have_half)
    expected = [(leader.peer.id, None)] + [
        (node.peer.id, number) for number, node in enumerate(others)
    ]
    for node in crowd:
        [seen] = await node.sharing.views()
        assert [(place.node, place.parent) for place in seen.snapshot.places] == expected
        assert (seen.digest, seen.total, seen.is_told) == (upstream.digest, len(LARGE), True)
        assert seen.role is (Role.LEADER if node is leader else Role.FOLLOWER)
    [told] = others[0].sharing.describe()
    assert told == {
        "digest": str(upstream.digest),
        "role": "follow",
        "parent": leader.peer.id,
        "offset": HALF,
    }
    upstream.allow()
    assert all(await asyncio.gather(*pulls))
    await until(lambda: not any(node.sharing.participations for node in crowd))
    assert not await leader.sharing.views()
    assert not leader.sharing.describe()


async def test_a_coordinator_that_cannot_tell_the_tree_is_asked_for_sources_all_the_same(
    nodes: Nodes, upstream: Upstream
) -> None:
    """An older coordinator refuses the query, a hung one is silent.

    That costs the picture, but no pull.
    """
    leader, follower, coordinator = ordered(
        await nodes(3, replace(TALKATIVE, tree_answer=0.05)), upstream.digest
    )
    pulls = [await started(leader), await started(follower)]
    answer = coordinator.network.handlers[coordinator.peer]

    def older(name: str, question: bytes) -> bytes:
        if b'"look"' in question:
            raise MessageError("no question of this protocol")
        return answer(name, question)

    coordinator.network.handlers[coordinator.peer] = older
    [seen] = await follower.sharing.views()
    assert follower.sharing._coordinators.unresponsive == {}
    coordinator.network.silence(coordinator.peer)
    assert await follower.sharing.views() == [seen]
    coordinator.network.silence(coordinator.peer, on=False)
    assert [place.node for place in seen.snapshot.places] == [leader.peer.id, follower.peer.id]
    assert not seen.is_told
    upstream.allow()
    assert all(await asyncio.gather(*pulls))
