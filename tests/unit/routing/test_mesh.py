"""An error with one peer does not affect other peers."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID

from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.announce import AnnounceStream
from spegel_py.routing.libp2p.bounds import MAX_PEERS_PER_ADDRESS
from spegel_py.routing.libp2p.dialling import MAX_DIALS
from spegel_py.routing.libp2p.discovery import (
    EMPTY_AT_LEAST,
    LOOK_AGAIN,
    OF_A_NEWCOMER,
    TOGETHER,
    WAIT_FOR_DIAL,
    enough_answers,
    tolerating,
)
from spegel_py.routing.libp2p.frames import Hello
from spegel_py.routing.libp2p.identity import PasswordProof
from spegel_py.routing.libp2p.kademlia import CLOSEST, KademliaClient
from spegel_py.routing.libp2p.mesh import Mesh
from spegel_py.routing.libp2p.multiaddrs import Contact
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import AnnounceContext, LocalKeys

PEER, OTHER = ID(b"\x00\x01x"), ID(b"\x00\x01y")


async def _breaks_when_cancelled() -> None:
    """Do what a link does whose stream breaks in the moment it is cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            raise StreamEOF


def test_a_break_together_with_a_cancellation_ends_one_task_only() -> None:
    """A stream that breaks in the moment its task is cancelled raises a group that is no Exception;
    still it goes nowhere, and the cancellation is not swallowed."""

    async def main() -> str:
        scope = trio.CancelScope()

        async def tend() -> None:
            with scope:
                with tolerating("it broke", PEER):
                    await _breaks_when_cancelled()
                raise AssertionError("the cancellation was swallowed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tend)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        return "alive"

    assert trio.run(main) == "alive"


def test_an_interrupt_is_not_tolerated() -> None:
    """An interrupt is raised again."""
    with pytest.raises(BaseExceptionGroup), tolerating("it broke", PEER):
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()])


def test_a_node_that_is_leaving_tells_nobody_anew() -> None:
    """Once it says goodbye, a peer that it cannot tell any more is left alone: a hello would take
    the goodbye back."""

    async def main() -> None:
        mesh = _mesh()
        with trio.fail_after(5):
            await mesh.say_goodbye(timeout=1)
            await mesh._keep_announcing(PEER)

    trio.run(main)


def test_a_connection_that_ends_after_the_mesh_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host closes its connections last, when the mesh can start no task any more."""

    async def main() -> None:
        mesh = _mesh()
        monkeypatch.setattr(mesh, "_tend", lambda peer, scope: trio.sleep(0))
        async with trio.open_nursery() as nursery:
            await nursery.start(mesh.run)
            mesh.arrived(PEER)
            assert mesh.peers() == [PEER]
            nursery.cancel_scope.cancel()
        mesh.lost(PEER, why="connection closed")

    trio.run(main)


@pytest.mark.parametrize(("empty", "asked"), [(0, 1), (1, 2)])
def test_a_peer_that_knew_nobody_is_asked_once_more(
    monkeypatch: pytest.MonkeyPatch, empty: int, asked: int
) -> None:
    """It had no addresses of the nodes that joined at the same moment."""
    mesh, times, met = _mesh(), list[float](), set[ID]()

    async def find_node(peer: ID, target: bytes, *, known: Container[ID]) -> list[Contact]:
        times.append(trio.current_time())
        return [] if len(times) <= empty else [Contact(OTHER, ())]

    async def dial_named(contacts: Iterable[Contact], *, has_time: bool) -> None:
        met.update(contact.id for contact in contacts)

    monkeypatch.setattr(mesh._kademlia, "find_node", find_node)
    monkeypatch.setattr(mesh.discovery, "dial_named", dial_named)
    trio.run(mesh.discovery.explore, PEER, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(times) == asked
    assert met == {OTHER}
    assert times[-1] - times[0] == pytest.approx(LOOK_AGAIN if empty else 0)


def test_peers_that_a_peer_names_leave_dials_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may not exist, and each that does not answer holds a dial for three seconds; bootstrap
    peers need some."""
    mesh, under_way, most = _mesh(), [0], [0]

    async def find_node(peer: ID, target: bytes, *, known: Container[ID]) -> list[Contact]:
        return [Contact(ID(bytes([number] * 34)), ()) for number in range(20)]

    async def dial(addresses: object, expected: ID | None) -> bool:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await trio.sleep(3)
        under_way[0] -= 1
        return False

    monkeypatch.setattr(mesh._kademlia, "find_node", find_node)
    monkeypatch.setattr(mesh.discovery, "dial", dial)
    trio.run(mesh.discovery._dial_through, PEER, clock=trio.testing.MockClock(autojump_threshold=0))
    assert 0 < most[0] <= MAX_DIALS // 2


@pytest.mark.parametrize(("connected", "in_vain"), [(4, 1.0), (5, OF_A_NEWCOMER)])
def test_a_peer_that_knows_few_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch, connected: int, in_vain: float
) -> None:
    """It named all three that it knows; whoever knows five learns little from that."""
    mesh = _mesh()
    contacts = [Contact(ID(bytes([number] * 34)), ()) for number in range(5)]
    mesh._connected_at.update({each.id: "10.0.0.1" for each in contacts[:connected]})

    async def find_node(peer: ID, target: bytes, *, known: Container[ID]) -> list[Contact]:
        return contacts[:3]

    monkeypatch.setattr(mesh._kademlia, "find_node", find_node)
    trio.run(mesh.discovery._dial_through, PEER, clock=trio.testing.MockClock(autojump_threshold=0))
    assert mesh.discovery._in_vain == in_vain


@pytest.mark.parametrize(("named", "places"), [(CLOSEST, 2), (CLOSEST - 1, 2), (CLOSEST - 2, 1)])
def test_a_peer_that_names_many_is_asked_for_a_random_place_too(
    monkeypatch: pytest.MonkeyPatch, named: int, places: int
) -> None:
    """A full answer may leave members out; a shorter one has all that the peer knows.

    One less is full too: go-libp2p leaves the asking node out of those it has chosen.
    """
    mesh, asked = _mesh(), list[bytes]()

    async def find_node(peer: ID, target: bytes, *, known: Container[ID]) -> list[Contact]:
        asked.append(target)
        return [Contact(ID(bytes([number] * 34)), ()) for number in range(named)]

    monkeypatch.setattr(mesh._kademlia, "find_node", find_node)
    trio.run(mesh.discovery._dial_through, PEER, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(set(asked)) == places


def test_of_two_nodes_that_hear_of_each_other_the_smaller_id_dials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one dials as well if nothing has come after a moment."""
    mesh, dialled = _mesh(), dict[ID, float]()
    own = mesh._host.get_id().to_bytes()
    smaller, larger = ID(b"\0" * len(own)), ID(b"\xff" * len(own))

    async def dial(addresses: object, expected: ID) -> bool:
        dialled[expected] = trio.current_time()
        return False

    async def main() -> None:
        began = trio.current_time()
        await mesh.discovery.dial_named([Contact(smaller, ()), Contact(larger, ())], has_time=True)
        assert dialled[larger] == began
        assert WAIT_FOR_DIAL <= dialled[smaller] - began <= 2 * WAIT_FOR_DIAL

    monkeypatch.setattr(mesh.discovery, "dial", dial)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("members", [2, CLOSEST, CLOSEST + 1, 24, 50, 128])
def test_no_member_is_left_unknown_after_enough_answers(members: int) -> None:
    """Each answer names CLOSEST of the members; over 2,000 nodes none misses one."""
    rng, others, missed = random.Random(members), range(members), list[int]()
    for _ in range(2000):
        unknown = rng.choice(others)
        answers = (
            rng.sample(others, min(CLOSEST, members)) for _ in range(enough_answers(members))
        )
        if not any(unknown in answer for answer in answers):
            missed.append(unknown)
    assert len(missed) <= 1


def test_the_new_peers_of_a_complete_mesh_are_asked_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is asked until enough of them have known nobody new, and each again after news."""
    mesh, asked, news = _mesh(), list[float](), [Contact(OTHER, ())]

    async def find_node(peer: ID, target: bytes, *, known: Container[ID]) -> list[Contact]:
        asked.append(trio.current_time())
        return news

    async def dial_named(contacts: Iterable[Contact], *, has_time: bool) -> None:
        pass

    async def main() -> None:
        for count in range(EMPTY_AT_LEAST + 1):  # the first one brings news
            await mesh.discovery.explore(PEER)
            assert len(asked) == count + 1
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(mesh.discovery.explore, PEER)
        assert [at - began for at in asked[EMPTY_AT_LEAST + 1 :]] == [pytest.approx(TOGETHER)]
        news[:] = [Contact(ID(b"\x00\x02yz"), ())]
        await mesh.discovery.explore(PEER)
        before = len(asked)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(mesh.discovery.explore, PEER)
        assert len(asked) == before + 2

    monkeypatch.setattr(mesh._kademlia, "find_node", find_node)
    monkeypatch.setattr(mesh.discovery, "dial_named", dial_named)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def _mesh() -> Mesh:
    host = compat.build_host(Ed25519PrivateKey.generate(), announce=list)
    return Mesh(
        host=host,
        table=RecordTable(rng=random.Random(1)),
        kademlia=KademliaClient(host),
        context=AnnounceContext(
            own=host.get_id(),
            local=LocalKeys(),
            hello=Hello(4.0, "", 5000, "test"),
            limit=128,
            replication=20,
            password=PasswordProof(),
        ),
        provider_addresses=list,
        carried=lambda direction, frame, size: None,
        dropped=lambda reason: None,
        rng=random.Random(1),
    )


def test_an_address_is_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many peers at one address some are refused, and what a refused one says is not heard."""
    mesh = _mesh()
    dropped: list[str] = []
    mesh._dropped = dropped.append
    monkeypatch.setattr(mesh, "_connected_from", lambda peer: "10.0.0.1")
    monkeypatch.setattr(mesh._locations, "_connected_from", mesh._connected_from)
    peers = [ID(bytes([number] * 34)) for number in range(MAX_PEERS_PER_ADDRESS + 1)]

    async def arrive() -> None:
        async with trio.open_nursery() as nursery:
            mesh._nursery = nursery
            monkeypatch.setattr(mesh, "_tend", lambda peer, scope: trio.sleep(0))
            for peer in peers:
                mesh._table.peer_connected(
                    str(peer)
                )  # as where its first stream is quicker than the notice of it
                mesh.arrived(peer)
            nursery.cancel_scope.cancel()

    trio.run(arrive)
    assert mesh.peers() == peers[:-1]
    assert dropped == ["too-many-peers"]
    assert mesh.address_of(peers[-1]) is None
    assert not mesh._table.is_connected(str(peers[-1]))
    mesh.lost(peers[-1], why="connection closed")
    assert mesh.address_of(peers[-1]) == "10.0.0.1"


def test_a_node_that_leaves_announces_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hello that is written after the goodbye would take it back."""
    mesh, peer = _mesh(), ID(bytes(range(34)))
    events: list[str] = []

    async def tend(peer: ID, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(1)
            events.append("hello")

    async def goodbye(*_: object) -> None:
        await trio.sleep(2)
        events.append("goodbye")

    monkeypatch.setattr(mesh, "_tend", tend)
    monkeypatch.setattr("spegel_py.routing.libp2p.mesh.say_goodbye", goodbye)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            mesh._nursery = nursery
            mesh.arrived(peer)
            await trio.testing.wait_all_tasks_blocked()
            await mesh.say_goodbye(timeout=10.0)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert events == ["goodbye"]


def test_a_peer_that_pings_too_gets_another_hello_at_once() -> None:
    """Its hello may come after this node's own, which promised frequent refreshes."""
    mesh, peer = _mesh(), ID(bytes(range(34)))
    stream = AnnounceStream(
        host=mesh._host, peer=peer, context=mesh._context, carried=mesh._carried
    )
    mesh._streams[peer] = stream
    mesh.prober.add(peer)
    mesh.set_pings_too(peer, True)
    assert mesh.prober.pings_too(peer)
    assert stream._is_woken
