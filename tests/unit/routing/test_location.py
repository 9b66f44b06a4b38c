"""A peer is asked where its identity answered, never where only its words point."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.libp2p.location import (
    IDENTIFY_TIMEOUT,
    MAX_DIALS,
    Locations,
    drop_unusable,
    is_unusable,
)
from spegel_py.routing.libp2p.multiaddrs import Contact

PEER = ID(b"\x12\x20" + b"p" * 32)
ROUTER, OWN, OTHER = "10.0.0.1", "10.1.0.2", "10.9.0.9"


class World:
    """A peer connected from the address `seen`, which lists others, and answers at some."""

    def __init__(self, *, seen: str | None, lists: list[str], answers: set[str]) -> None:
        self.seen = seen
        self.lists = tuple(Multiaddr(f"/ip4/{host}/tcp/5001") for host in lists)
        self.answers = answers
        self.dialled: list[str] = []
        self.found: list[str] = []
        self.locations = Locations(
            connected_from=lambda peer: self.seen,
            contact=lambda peer: Contact(peer, self.lists),
            prove=self._prove,
            found=lambda peer, host: self.found.append(host),
        )

    async def _prove(self, address: Multiaddr, peer: ID) -> None:
        host = str(address).split("/")[2]
        self.dialled.append(host)
        if host not in self.answers:
            raise PeerUnreachable("another identity")


@pytest.mark.parametrize(
    ("seen", "lists", "answers", "dialled", "at"),
    [
        pytest.param(OWN, [OWN], {OWN}, [], OWN, id="connected from where it listens"),
        pytest.param(
            ROUTER, [OWN], {OWN}, [OWN], OWN, id="behind a router that rewrites addresses"
        ),
        pytest.param(
            ROUTER, ["172.17.0.1", OWN], {OWN}, ["172.17.0.1", OWN], OWN, id="a bridge first"
        ),
        pytest.param(
            ROUTER, [OTHER], set(), [OTHER], ROUTER, id="names an address that is not its own"
        ),
        pytest.param(
            ROUTER,
            ["127.0.0.1", "169.254.169.254"],
            {"127.0.0.1"},
            [],
            ROUTER,
            id="names this node",
        ),
        pytest.param(
            ROUTER,
            [f"10.9.0.{n}" for n in range(99)],
            set(),
            [f"10.9.0.{n}" for n in range(MAX_DIALS)],
            ROUTER,
            id="names many",
        ),
    ],
)
def test_a_new_peer_is_looked_for_at_its_own_addresses(
    seen: str, lists: list[str], answers: set[str], dialled: list[str], at: str
) -> None:
    """Only if it is connected from another address, and only where it answers by its identity."""
    world = World(seen=seen, lists=lists, answers=answers)
    trio.run(world.locations.find, PEER)
    assert (world.dialled, world.locations.of(PEER)) == (dialled, at)
    assert world.found == ([at] if at != seen else [])


@pytest.mark.parametrize("answers", [{OTHER}, set()], ids=["its own", "another one's"])
def test_a_registry_s_address_is_dialled_before_it_is_used(answers: set[str]) -> None:
    """The port that is dialled is the one at which the peer listens for libp2p."""
    world = World(seen=OWN, lists=[OWN], answers=answers)
    trio.run(world.locations.claim, PEER, OTHER)
    assert world.dialled == [OTHER]
    assert world.locations.of(PEER) == (OTHER if answers else OWN)
    trio.run(world.locations.claim, PEER, OTHER)
    assert world.dialled == [OTHER] * (1 if answers else 2), "what is proven is not dialled again"


def test_a_peer_that_is_gone_is_nowhere() -> None:
    """Neither a proven address, nor an address that is proven too late."""
    world = World(seen=ROUTER, lists=[OWN], answers={OWN})
    trio.run(world.locations.find, PEER)
    world.seen = None
    world.locations.forget(PEER)
    assert world.locations.of(PEER) is None
    trio.run(world.locations.claim, PEER, OWN)
    assert world.locations.of(PEER) is None


def test_a_peer_that_does_not_identify_itself_is_where_it_connected_from() -> None:
    """It is waited for, and not for ever."""
    world = World(seen=ROUTER, lists=[], answers=set())

    async def timed() -> float:
        start = trio.current_time()
        await world.locations.find(PEER)
        return trio.current_time() - start

    assert trio.run(timed, clock=trio.testing.MockClock(autojump_threshold=0)) == pytest.approx(
        IDENTIFY_TIMEOUT
    )
    assert world.locations.of(PEER) == ROUTER


@pytest.mark.parametrize(
    ("host", "seen", "expected"),
    [
        ("", "10.0.0.1", True),
        ("0.0.0.0", "10.0.0.1", True),
        ("::", "10.0.0.1", True),
        ("127.0.0.1", "10.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", False),
        ("169.254.169.254", "10.0.0.1", True),
        ("fe80::1", "10.0.0.1", True),
        ("224.0.0.1", "10.0.0.1", True),
        ("10.0.0.2", "10.0.0.1", False),
    ],
)
def test_some_hosts_are_nobody_s(host: str, seen: str, expected: bool) -> None:
    """A cloud's metadata address among them."""
    assert is_unusable(host, seen) is expected


def test_a_contact_is_dialled_at_addresses_that_are_somebody_s() -> None:
    """A peer that names others cannot have this node dial itself, a cloud's metadata, or what is no
    TCP address."""
    texts = [
        "/ip4/10.0.0.2/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/169.254.169.254/tcp/80",
        "/dns4/x/tcp/1",
    ]
    contact = Contact(PEER, tuple(map(Multiaddr, texts)))
    assert [str(each) for each in drop_unusable(contact, ROUTER).addresses] == texts[:1]
    assert [str(each) for each in drop_unusable(contact, "127.0.0.1").addresses] == texts[:2]
