"""The frames for one peer, replayed into a record table, always end in the set it should hold."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import sharing
from spegel_py.routing.libp2p.frames import Ages, Delta, Frame, Hello, Refresh, SetPart
from spegel_py.routing.libp2p.identity import PasswordProof
from spegel_py.routing.libp2p.keys import closest, name_hash, position, record_key
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import (
    REFRESHES_PER_SECOND,
    AnnounceContext,
    KeyPlacement,
    LocalKeys,
    PeerSyncState,
    announces_everything,
    next_interval,
)

POOL = [name_hash(str(number)) for number in range(12)]


class Listener:
    """The other end of a share: a record table, and the set it shows."""

    def __init__(self) -> None:
        self.table = RecordTable(rng=random.Random(0))
        self.table.peer_connected("A")
        self.table.hello("A", Peer("A", "::1", 1), interval=10.0, now=0.0)

    def hear(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            match frame:
                case SetPart(keys, first, last, complete):
                    self.table.stage("A", keys, first=first)
                    if last:
                        self.table.commit("A", complete=complete)
                case Delta(True, keys):
                    self.table.add("A", keys)
                case Delta(False, keys):
                    self.table.remove("A", keys)
                case Ages(ages):
                    self.table.record_ages("A", ages, now=0.0)

    def offers(self, key: bytes, *, max_age: float) -> bool:
        return bool(self.table.providers(key, now=0.5, max_age=max_age))

    def holds(self) -> set[bytes]:
        return {key for key in POOL if self.table.providers(key, now=1.0)}

    def agrees(self, refresh: Refresh) -> bool:
        return self.table.in_step("A", count=refresh.count, check=refresh.checksum)


CHANGES = st.lists(
    st.tuples(
        st.booleans(),  # add or remove
        st.sets(st.integers(0, len(POOL) - 1)),
        st.sampled_from(
            ["all", "even", "none", "lost"]
        ),  # what the peer should hold; lost: it forgot everything
    ),
    max_size=12,
)


@given(CHANGES)
def test_whatever_happens_the_peer_ends_with_what_it_should_hold(
    changes: list[tuple[bool, set[int], str]],
) -> None:
    """Through additions, removals, losses and changes of regime, told and held stay equal, checksum
    included."""
    local, share, listener = LocalKeys(), PeerSyncState(), Listener()
    for added, numbers, regime in changes:
        keys = [POOL[number] for number in numbers]
        local.add(keys) if added else local.remove(keys)
        if regime == "lost":
            listener = Listener()
            share.restart()
        part = {"all": None, "lost": None, "none": set[bytes]()}.get(
            regime, {k for k in local.keys if k[0] % 2 == 0}
        )
        listener.hear(share.next_frames(local, part, now=0.0))
        assert listener.holds() == (local.keys if part is None else part)
        assert listener.agrees(share.refresh())
        assert listener.table.knows_all(now=1.0) == (part is None)


def test_when_tags_were_pulled_is_told_once_and_again_when_they_are_pulled_anew() -> None:
    """The age follows the key, in both regimes; a peer that lost track hears it again; other keys
    have none."""
    local, share, listener = LocalKeys(), PeerSyncState(), Listener()
    local.add(POOL[:2])
    assert local.record_pulls({POOL[0]: 100.0, POOL[5]: 1.0})
    first = share.next_frames(local, None, now=130.0)
    assert first[-1] == Ages(((POOL[0], 30),))
    listener.hear(first)
    assert listener.offers(POOL[0], max_age=31.0)
    assert not listener.offers(POOL[0], max_age=29.0)
    assert listener.offers(POOL[1], max_age=0.0), "nobody said how old it is"
    assert share.next_frames(local, None, now=140.0) == []
    assert local.record_pulls({POOL[0]: 135.0})
    assert share.next_frames(local, None, now=140.0) == [Ages(((POOL[0], 5),))]
    part = share.next_frames(local, {POOL[1]}, now=140.0)
    assert not any(isinstance(frame, Ages) for frame in part)
    assert share.next_frames(local, {POOL[0]}, now=141.0)[-1] == Ages(((POOL[0], 6),))
    share.restart()
    assert share.next_frames(local, {POOL[0]}, now=142.0)[-1] == Ages(((POOL[0], 7),))
    local.remove([POOL[0]])
    assert local.pulled == {}


def test_a_change_goes_out_as_a_delta() -> None:
    """One new key among thousands costs one small frame, and nothing new costs nothing."""
    local, share = LocalKeys(), PeerSyncState()
    local.add(name_hash(f"bulk {number}") for number in range(5000))
    share.next_frames(local, None, now=0.0)
    local.add([POOL[0]])
    assert share.next_frames(local, None, now=0.0) == [Delta(True, (POOL[0],))]
    assert share.next_frames(local, None, now=0.0) == []


def test_a_peer_that_is_too_far_behind_gets_the_whole_set() -> None:
    """When the log of changes is shorter than the gap, the set is sent again."""
    local, share, listener = LocalKeys(), PeerSyncState(), Listener()
    listener.hear(share.next_frames(local, None, now=0.0))
    for _ in range(sharing.LOG_LENGTH):
        local.add([POOL[0]])
        local.remove([POOL[0]])
    local.add([POOL[1]])
    frames = share.next_frames(local, None, now=0.0)
    assert isinstance(frames[0], SetPart)
    listener.hear(frames)
    assert listener.holds() == {POOL[1]}


def test_adding_what_is_there_is_no_change() -> None:
    """Keys added twice, or removed without being there, wake nobody."""
    local = LocalKeys()
    assert local.add([POOL[0], POOL[0]])
    assert not local.add([POOL[0]])
    assert not local.remove([POOL[1]])


def test_the_regime_changes_with_the_size_and_not_with_every_node() -> None:
    """At the limit all is told to all; above it no more; back only well below it."""
    assert announces_everything(True, nodes=128, limit=128)
    assert not announces_everything(True, nodes=129, limit=128)
    assert not announces_everything(False, nodes=120, limit=128)
    assert announces_everything(False, nodes=115, limit=128)
    assert not announces_everything(True, nodes=2, limit=0)


def test_a_key_goes_to_its_closest_peers() -> None:
    """With more peers than copies, every key is told to exactly the closest ones."""
    peers = [bytes([number]) * 38 for number in range(10)]
    local, plan = LocalKeys(), KeyPlacement(replication=3)
    local.add(POOL)
    plan.set_members(peers)
    places = [(position(peer), peer) for peer in peers]
    for key in POOL:
        told = {peer for peer in peers if key in plan.part_for(peer, local)}
        assert told == set(closest(position(record_key(key)), places, 3))
    local.remove([POOL[0]])
    assert all(POOL[0] not in plan.part_for(peer, local) for peer in peers)


def test_with_few_peers_everybody_is_close() -> None:
    """With no more peers than copies, each is told everything."""
    local, plan = LocalKeys(), KeyPlacement(replication=3)
    local.add(POOL)
    plan.set_members([b"a", b"b"])
    assert set(plan.part_for(b"a", local)) == set(POOL)


@given(st.lists(st.integers(0, 20_000), max_size=50), st.floats(0.5, 60))
def test_refreshes_are_bounded_whatever_the_cluster(sizes: list[int], base: float) -> None:
    """However a cluster grows and shrinks, a node sends 20 refreshes a second at most, and none
    later than it must."""
    interval = base
    for peers in sizes:
        interval = next_interval(interval, base=base, peers=peers)
        assert peers / interval <= REFRESHES_PER_SECOND * 1.01
        assert base <= interval <= max(base, 1.6 * peers / REFRESHES_PER_SECOND + 0.1)


def test_the_interval_is_the_configured_one_in_a_small_cluster() -> None:
    """Up to 80 peers it is the 4 s that were configured, and is so again after the cluster has
    shrunk."""
    assert next_interval(4.0, base=4.0, peers=80) == 4.0
    assert next_interval(60.0, base=4.0, peers=80) == 4.0


def test_the_interval_changes_seldom_while_a_cluster_grows() -> None:
    """From 2 to 1,000 nodes every peer is told of a new interval a dozen times, not hundreds of
    times."""
    intervals = [4.0]
    for peers in range(1, 1000):
        intervals.append(next_interval(intervals[-1], base=4.0, peers=peers))
    assert len(set(intervals)) <= 15


def context(*, limit: int) -> AnnounceContext:
    return AnnounceContext(
        own=ID(b"own"),
        local=LocalKeys(),
        hello=Hello(4.0, "", 5000, pings=True),
        limit=limit,
        replication=2,
        password=PasswordProof(),
    )


def members(count: int) -> dict[ID, str]:
    return {ID(bytes([number]) * 38): f"10.0.0.{number}" for number in range(count)}


def is_woken(context: AnnounceContext, connected: dict[ID, str]) -> bool:
    """Return True if the streams are woken when these are the members."""
    news = context.news
    context.set_members(connected)
    return news.is_set()


def test_a_member_that_comes_wakes_no_stream_where_all_are_sent_everything() -> None:
    """A thousand members that come would wake a thousand streams each."""
    small = context(limit=100)
    assert not any(is_woken(small, members(count)) for count in (1, 2, 3, 2, 10, 9))


def test_members_change_the_keys_of_a_peer_that_is_sent_a_part() -> None:
    """It may be one of many members, or of the few that speak standard Kademlia."""
    for one in (context(limit=0), context(limit=100)):
        one.local.add(POOL)
        peer = next(iter(members(1)))
        for count in (1, 5, 9):
            one.closest_part(peer)
            assert is_woken(one, members(count))
        assert set(one.closest_part(peer)) < set(POOL)


def test_streams_are_woken_where_a_cluster_grows_too_large() -> None:
    """For everything to be sent to all, or for refreshes as often as before."""
    large = context(limit=20)
    assert next(count for count in range(1, 60) if is_woken(large, members(count))) == 20
