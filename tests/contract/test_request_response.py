"""One suite for every RequestResponse port: in memory, and over libp2p."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from spegel_py.errors import PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE, Peer, RequestResponse
from spegel_py.routing.memory import MemoryNetwork
from tests.support.routers import Node, cluster, until


@dataclass
class Two:
    """Two that take part, where their registries are, and a third that does not and its id; `end`
    ends the second."""

    clients: list[RequestResponse]
    ports: list[int]
    stranger: str
    end: Callable[[], Awaitable[None]]


async def _memory() -> AsyncIterator[Two]:
    network = MemoryNetwork()
    peers = [Peer(f"peer{number}", "127.0.0.1", 5000 + number) for number in range(3)]
    for peer in peers:
        network.join(peer)

    async def end() -> None:
        network.leave(peers[1])

    yield Two([network.requests(peer) for peer in peers[:2]], [5000, 5001], peers[2].id, end)


async def _libp2p() -> AsyncIterator[Two]:
    async with cluster(1, shares=True) as [first], cluster(1, shares=True) as [second]:
        third = Node(bootstrap=[first.multiaddr, second.multiaddr])
        async with third.router.running():  # it makes the others known to each other too
            await until(
                lambda: all(len(node.router.connected()) == 2 for node in (first, second, third))
            )
            clients: list[RequestResponse] = [first.router.requests, second.router.requests]
            await until(lambda: all(client.partners() for client in clients))

            async def end() -> None:
                await second.router.crash()

            yield Two(clients, [first.registry_port, second.registry_port], third.router.id, end)


@pytest.fixture(params=[_memory, _libp2p], ids=["memory", "libp2p"])
async def two(request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    make: Callable[[], AsyncIterator[Two]] = request.param
    async for made in make():
        yield made


async def test_who_takes_part_is_known_to_the_others(two: Two) -> None:
    """Each sees the other with the address of its registry, and neither itself nor who takes no
    part."""
    for number, client in enumerate(two.clients):
        [(name, peer)] = client.partners().items()
        assert (name, peer.id, peer.port) == (two.clients[1 - number].id,) * 2 + (
            two.ports[1 - number],
        )


async def test_a_question_is_answered_by_whom_it_was_put_to(two: Two) -> None:
    """The handler gets the sender's id, and any bytes go both ways; many at the same time too."""
    first, second = two.clients
    second.set_handler(lambda name, question: f"{name} ".encode() + question)
    first.set_handler(lambda name, question: question[::-1])
    assert await first.request(second.id, b"\x00?", timeout=5) == f"{first.id} ".encode() + b"\x00?"
    assert await second.request(first.id, b"abc", timeout=5) == b"cba"
    questions = [str(number).encode() for number in range(20)]
    answers = await asyncio.gather(
        *(second.request(first.id, question, timeout=5) for question in questions)
    )
    assert answers == [question[::-1] for question in questions]


async def test_long_words_are_carried_up_to_the_bound(two: Two) -> None:
    """A request as long as MAX_REQUEST, a response as long as MAX_RESPONSE."""
    first, second = two.clients
    second.set_handler(lambda _, question: question * (MAX_RESPONSE // MAX_REQUEST))
    assert await first.request(second.id, b"x" * MAX_REQUEST, timeout=5) == b"x" * MAX_RESPONSE


async def test_an_answer_beyond_the_bound_is_none(two: Two) -> None:
    """It is not read; the next one is."""
    first, second = two.clients
    second.set_handler(lambda _, question: b"x" * (MAX_RESPONSE + len(question)))
    with pytest.raises(PeerRefused):
        await first.request(second.id, b"?", timeout=5)
    assert len(await first.request(second.id, b"", timeout=5)) == MAX_RESPONSE


async def test_what_is_no_question_is_refused(two: Two) -> None:
    """By an answerer that raises ValueError, and as long as there is none; the next one is
    answered."""

    def answer(_: str, question: bytes) -> bytes:
        if question != b"good":
            raise ValueError("no question")
        return b"fine"

    first, second = two.clients
    with pytest.raises(PeerRefused):
        await first.request(second.id, b"good", timeout=5)
    second.set_handler(answer)
    with pytest.raises(PeerRefused):
        await first.request(second.id, b"bad", timeout=5)
    assert await first.request(second.id, b"good", timeout=5) == b"fine"


async def test_who_takes_no_part_cannot_be_asked(two: Two) -> None:
    """Nor an unknown peer."""
    for name in (two.stranger, "12D3KooWGRUNMzZyVRQNqFnhL9D8DBSbqUSQeyTvdGn1RCiXrV2w"):
        with pytest.raises(PeerUnreachable):
            await two.clients[0].request(name, b"?", timeout=5)


async def test_an_answer_that_takes_too_long_is_not_waited_for(two: Two) -> None:
    """The deadline is the asker's."""
    first, second = two.clients
    second.set_handler(lambda _, question: question)
    with pytest.raises(PeerStalled):
        await first.request(second.id, b"?", timeout=0)
    assert await first.request(second.id, b"?", timeout=5) == b"?"


async def test_who_is_gone_is_no_partner_any_more(two: Two) -> None:
    """Soon after its end it is not among the partners, and a question fails."""
    first, second = two.clients
    name = second.id
    await two.end()
    await until(lambda: not first.partners())
    with pytest.raises(PeerUnreachable):
        await first.request(name, b"?", timeout=5)


async def test_whoever_waits_hears_that_partners_came_or_went(two: Two) -> None:
    """No polling is needed: the waiting task clears the event, and the next change sets it
    again."""
    first, second = two.clients
    assert first.changed.is_set()
    first.changed.clear()
    await two.end()
    async with asyncio.timeout(10):
        while second.id in first.partners():
            await first.changed.wait()
            first.changed.clear()
