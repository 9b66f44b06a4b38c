"""What a tag means, with nodes that sign, pass on, stay silent or lie about it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.mirror.tag_book import TagBook
from spegel_py.mirror.tag_trust import GRACE, TagAuthors, TagsFromPeers
from spegel_py.oci.digest import Digest
from spegel_py.routing.tag_observation import TagObservation
from tests.unit.mirror.peers import FakePeer
from tests.unit.mirror.tag_words import Observer
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import Answer
from tests.unit.registry.test_relayed import MANIFEST, TAG

NAME = "r.io/app:v1"
GOOD, EVIL = MANIFEST, MANIFEST + b"\n"


@dataclass
class Member(Observer):
    """A node with a book of tags."""

    node: Node = field(init=False)
    book: TagBook = field(init=False)

    def __post_init__(self) -> None:
        Observer.__init__(self)

    async def ask(self, *lines: str, method: str = "HEAD") -> Answer:
        return await (await self.node.client()).ask(method, TAG, *lines)

    async def digest(self) -> str | None:
        """Return the digest that its own runtime is answered with; None for a 404."""
        answer = await self.ask()
        return answer.headers["docker-content-digest"] if answer.status == 200 else None

    async def seen(self) -> str | None:
        """Return the observation that it tells another node."""
        return (await self.ask("X-Spegel-Mirrored: true")).headers.get("x-spegel-seen")

    async def reason(self) -> str:
        """Return why its last pull was a miss."""
        await self.node.counted("spegel_peer_tags")
        [record] = self.node.pull_log.find(None, limit=1)
        return str(record["reason"])

    async def hold(self, data: bytes, *, ago: float = 0.0) -> None:
        """Let its runtime have pulled the tag, and advertise it."""
        self.node.store.tag(NAME, self.node.store.add(data), pulled=time.time() - ago)
        await self.node.network.join(self.node.peer).advertise([NAME])

    async def pull_upstream(self, data: bytes) -> None:
        """Let its runtime pull the tag: the registry has it, and this node answers 404."""
        assert await self.digest() is None
        await self.hold(data)


@dataclass
class Cluster:
    """Nodes in one process that know each other, with one monotonic clock."""

    start: NodeFactory
    stack: AsyncExitStack
    connected: set[str] = field(default_factory=set)
    now: float = 0.0
    keyed: set[str] | None = None
    any_network: Any = None
    members: list[Member] = field(default_factory=list)

    async def add(self, *, ttl: float = 3600.0, is_silent: bool = False, **options: Any) -> Member:
        """Start a node; a silent one has no book, as an earlier version or Spegel."""
        member = Member()
        freshness = Freshness(ttl=ttl)
        book = {
            name: options.pop(name)
            for name in ("rule", "witnesses", "clock", "counted")
            if name in options
        }
        member.book = TagBook(
            own_id=member.id,
            sign=member.key.sign,
            authors=TagAuthors(
                own_id=member.id,
                connected=lambda: self.connected,
                keyed=lambda: self.connected if self.keyed is None else self.keyed,
            ),
            freshness=freshness,
            monotonic=lambda: self.now,
            **book,
        )
        self.connected.add(member.id)
        member.node = await self.stack.enter_async_context(
            self.start(
                member.id,
                freshness=freshness,
                tag_book=None if is_silent else member.book,
                **options,
            )
        )
        self.members.append(member)
        return member

    async def rogue(self, data: bytes, header: Callable[[Observer], str] | None = None) -> Observer:
        """Start a peer that answers the tag with its own digest, as of now."""
        liar = Observer()
        headers = {"Age": "0"} | ({"X-Spegel-Seen": header(liar)} if header else {})
        fake = FakePeer(
            data,
            media_type="application/vnd.oci.image.manifest.v1+json",
            digest=Digest.of(data),
            headers=headers,
        )
        peer = await self.stack.enter_async_context(fake.serve(liar.id))
        self.connected.add(liar.id)
        for member in self.members:
            member.book.look()
        await self.any_network.join(peer).advertise([NAME])
        return liar

    def leave(self, *nodes: Observer) -> None:
        """Let nodes go: they are not found, and not connected."""
        for member in self.members:
            member.book.look()
        for each in nodes:
            self.connected.discard(each.id)
            for peer in [one for one in self.any_network.members if one.id == each.id]:
                self.any_network.leave(peer)


@pytest.fixture
async def cluster(start: NodeFactory, network: Any) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(start, stack, any_network=network)


def read(header: str | None, data: bytes = GOOD) -> TagObservation:
    assert header is not None
    return TagObservation.parse(header, name=NAME, digest=Digest.of(data))


async def test_an_observation_is_handed_on_unchanged(cluster: Cluster) -> None:
    """A saw the tag, B got it from A, C gets it from B after A has died."""
    a, b, c = [await cluster.add() for _ in range(3)]
    await a.pull_upstream(GOOD)
    header = await a.seen()
    assert (read(header).observer, header) == (a.id, await a.seen())
    answer = await b.ask()
    assert (answer.status, answer.headers["x-spegel-seen"]) == (200, header)
    await b.hold(GOOD)
    cluster.leave(a)
    assert await c.digest() == str(Digest.of(GOOD))
    await c.hold(GOOD)
    assert await b.seen() == await c.seen() == header
    assert len(header or "") <= 300


async def test_a_tag_nobody_is_a_witness_of_has_no_observation(cluster: Cluster) -> None:
    """An imported image, or one that was pulled before this version: its holder's word counts."""
    a, b, c = [await cluster.add() for _ in range(3)]
    await a.hold(GOOD)
    assert await a.seen() is None
    assert await b.digest() is not None
    await b.hold(GOOD)
    assert await b.seen() == "0", "it is only passed on"
    cluster.leave(a)
    assert await c.digest() is None
    await c.hold(GOOD)
    assert read(await c.seen()).observer == c.id


async def test_no_peer_makes_a_tag_younger(cluster: Cluster) -> None:
    """The rogue hands on an old observation, and says that the tag is young."""
    a, b = await cluster.add(), await cluster.add(ttl=3600)
    await cluster.rogue(GOOD, lambda _: a.saw(Digest.of(GOOD), time.time() - 600, name=NAME).header)
    answer = await b.ask()
    assert int(answer.headers["age"]) in (600, 601)
    strict = await cluster.add(ttl=60)
    assert await strict.digest() is None


@pytest.mark.parametrize(
    "forge",
    [
        lambda a, liar: a.saw(Digest.of(GOOD), time.time(), name="r.io/app:v2").header,
        lambda a, liar: a.saw(Digest.of(EVIL), time.time(), name=NAME).header,
        lambda a, liar: a.saw(Digest.of(GOOD), time.time(), name=NAME).header[:-4] + "AAAA",
        lambda a, liar: a.saw(Digest.of(GOOD), time.time(), name=NAME).header.replace(
            a.id, liar.id
        ),
        lambda a, liar: a.saw(Digest.of(GOOD), time.time() + 1000, name=NAME).header,
        lambda a, liar: Observer().saw(Digest.of(GOOD), time.time(), name=NAME).header,
        lambda a, liar: "0",
        lambda a, liar: "1;2;3",
    ],
    ids=[
        "another tag",
        "another digest",
        "tampered",
        "another observer",
        "from the future",
        "of an unknown node",
        "hearsay",
        "no observation",
    ],
)
async def test_a_forged_word_is_refused(
    cluster: Cluster, forge: Callable[[Observer, Observer], str]
) -> None:
    """The pull goes to the registry, and its record says why."""
    a, b = await cluster.add(), await cluster.add()
    await cluster.rogue(GOOD, lambda liar: forge(a, liar))
    assert await b.digest() is None
    assert await b.reason() == "unbelieved"


@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
async def test_the_poison_ends_with_its_author(cluster: Cluster, is_signed: bool) -> None:
    """One node has taken the rogue's digest, and other nodes get it from there at most as old as
    the rogue said, and at most until the rogue has been gone for a while."""
    victim, other, late = [await cluster.add() for _ in range(3)]
    liar = await cluster.rogue(
        EVIL,
        (lambda liar: liar.saw(Digest.of(EVIL), time.time() - 5, name=NAME).header)
        if is_signed
        else None,
    )
    evil = str(Digest.of(EVIL))
    assert await victim.digest() == evil
    await victim.hold(EVIL)
    cluster.leave(liar)
    answer = await other.ask()
    if is_signed:
        assert read(answer.headers["x-spegel-seen"], EVIL).observer == liar.id
        assert int(answer.headers["age"]) >= 5
    else:
        assert answer.status == 404
    assert await victim.digest() == evil
    cluster.now += GRACE
    for each in (victim, other, late):
        each.book.look()
        assert await each.digest() is None
    await late.hold(GOOD)
    assert read(await late.seen()).observer == late.id


async def test_a_restart_makes_no_tag_younger(cluster: Cluster) -> None:
    a, b = await cluster.add(), await cluster.add()
    await cluster.rogue(GOOD, lambda _: a.saw(Digest.of(GOOD), time.time() - 600, name=NAME).header)
    await b.digest()
    again = await cluster.add()
    for entry in b.book.origins.written():
        again.book.restore(entry)
    await again.hold(GOOD)
    answer = await again.ask()
    assert int(answer.headers["age"]) in (600, 601)
    assert read(answer.headers["x-spegel-seen"]).observer == a.id


async def test_a_newer_digest_of_a_peer_makes_the_old_one_here_no_younger(
    cluster: Cluster,
) -> None:
    """The runtime only asked for it, and has not pulled it."""
    a, b = await cluster.add(), await cluster.add(ttl=300)
    await cluster.rogue(GOOD, lambda _: a.saw(Digest.of(GOOD), time.time() - 299, name=NAME).header)
    assert await b.digest() == str(Digest.of(GOOD))
    await b.hold(GOOD)
    b.book.record_relayed(NAME, Digest.of(EVIL), None, peer=a.id, age=0)
    b.node.store.tag(NAME, Digest.of(GOOD), pulled=time.time())
    answer = await b.ask("X-Spegel-Mirrored: true")
    assert int(answer.headers["age"]) >= 299
    assert read(answer.headers["x-spegel-seen"]).observer == a.id


async def test_a_rogue_is_not_believed_by_two_witnesses(cluster: Cluster) -> None:
    """It signs, and passes on its word by a second address; that is one witness."""
    asking = await cluster.add(witnesses=2)
    liar = await cluster.rogue(
        EVIL, lambda liar: liar.saw(Digest.of(EVIL), time.time(), name=NAME).header
    )
    await cluster.rogue(
        EVIL, lambda _: liar.saw(Digest.of(EVIL), time.time() - 1, name=NAME).header
    )
    await cluster.rogue(EVIL)
    assert await asking.digest() is None
    assert await asking.reason() == "unbelieved"


async def test_each_node_that_asks_the_registry_is_a_further_witness(cluster: Cluster) -> None:
    """Two looks are enough for all others, who have only passed it on. A node without
    observations is no witness."""
    a, b, c, d = [await cluster.add(witnesses=2) for _ in range(4)]
    old = await cluster.add(is_silent=True)
    await a.pull_upstream(GOOD)
    await old.hold(GOOD)
    await b.pull_upstream(GOOD)
    for each in (c, d):
        assert await each.digest() == str(Digest.of(GOOD))
        await each.hold(GOOD)
    assert {read(await each.seen()).observer for each in (c, d)} <= {a.id, b.id}


async def test_a_later_word_of_another_digest_leaves_it_to_the_registry(cluster: Cluster) -> None:
    """The tag may have moved. Then the node that looked is a witness of the new digest, and an
    alert tells of a liar only."""
    a, b, asking = [await cluster.add(witnesses=2) for _ in range(3)]
    await a.pull_upstream(GOOD)
    await b.pull_upstream(GOOD)
    for each in (a, b):
        each.node.store.tag(NAME, Digest.of(GOOD), pulled=time.time())
    assert await asking.digest() == str(Digest.of(GOOD))
    liar = await cluster.rogue(
        EVIL, lambda liar: liar.saw(Digest.of(EVIL), time.time() + 890, name=NAME).header
    )
    third = await cluster.add(witnesses=2)
    assert await third.digest() is None
    assert third.book.conflicts() == {}
    await third.hold(GOOD)
    assert read(await third.seen()).observer == third.id
    assert third.book.conflicts() == {}, "clocks may differ by 15 min"
    assert liar.id not in await _seen_by(third)


async def _seen_by(member: Member) -> str:
    return read(await member.seen()).observer


async def test_a_liar_is_an_alert_with_both_sides(cluster: Cluster) -> None:
    """Then its word about this tag counts no more, and a node goes on with that of the others."""
    a = await cluster.add()
    asking = await cluster.add(witnesses=2)
    asking.book.history.record(
        a.saw(Digest.of(GOOD), time.time() - 7200, name=NAME), now=time.time()
    )
    liar = await cluster.rogue(
        EVIL, lambda liar: liar.saw(Digest.of(EVIL), time.time() - 1, name=NAME).header
    )
    await asking.pull_upstream(GOOD)
    assert await asking.seen()
    [(name, text)] = asking.book.conflicts().items()
    assert name == NAME
    for part in (liar.id, a.id, asking.id, str(Digest.of(EVIL)), str(Digest.of(GOOD))):
        assert part in text
    described = asking.book.describe()["conflicts"]
    assert isinstance(described, dict)
    assert described[NAME]["alone"]["observer"] == liar.id


async def test_members_only_and_off(cluster: Cluster) -> None:
    """A strict node takes the tags of nodes with a key, signed or not; one that is off takes none
    at all. All give theirs to others.
    """
    a = await cluster.add()
    strict = await cluster.add(rule=TagsFromPeers.MEMBERS)
    off = await cluster.add(rule=TagsFromPeers.OFF)
    cluster.keyed = {a.id, strict.id, off.id}
    for is_signed in (True, False):
        liar = await cluster.rogue(
            EVIL,
            (lambda liar: liar.saw(Digest.of(EVIL), time.time(), name=NAME).header)
            if is_signed
            else None,
        )
        assert await strict.digest() is None
        cluster.leave(liar)
    await a.hold(GOOD)
    assert await strict.digest() == str(Digest.of(GOOD))
    await off.pull_upstream(GOOD)
    assert read(await off.seen()).observer == off.id
    assert await off.digest() == str(Digest.of(GOOD)), "from its own store"


async def test_while_the_registry_is_away_gone_observers_count(cluster: Cluster) -> None:
    """Tags outlive their registry and the nodes that saw them, but no forgery does."""
    ticks = iter(range(0, 10**9, 10**3))
    reach = RegistryReach(probe=lambda _: False, clock=lambda: float(next(ticks)))
    a, b = await cluster.add(), await cluster.add()
    c = await cluster.add(reach=reach)
    await a.pull_upstream(GOOD)
    assert await b.digest() is not None
    await b.hold(GOOD)
    cluster.leave(a)
    cluster.now += GRACE
    for each in (b, c):
        each.book.look()
    assert await b.digest() is None
    assert await c.digest() == str(Digest.of(GOOD))
