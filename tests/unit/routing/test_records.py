"""The record table: the holders of a key, how long they count, and what ends that."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import structlog

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import holders, peer_records, records, tag_ages
from spegel_py.routing.libp2p.holders import checksum
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.records import RecordTable

A, B = Peer("A", "10.0.0.1", 5000), Peer("B", "10.0.0.2", 5000)
KEY, OTHER = name_hash("key"), name_hash("other")


def table_with(
    *peers: Peer, keys: tuple[bytes, ...] = (KEY,), interval: float = 5.0
) -> RecordTable:
    table = RecordTable(rng=random.Random(1))
    for peer in peers:
        table.peer_connected(peer.id)
        table.hello(peer.id, peer, interval=interval, now=0.0)
        table.stage(peer.id, keys, first=True)
        table.commit(peer.id, complete=True)
    return table


def test_an_announced_key_is_offered() -> None:
    """A key in a connected peer's set finds that peer, and only a key that is in it."""
    table = table_with(A, B)
    assert set(table.providers(KEY, now=1.0)) == {A, B}
    assert table.providers(OTHER, now=1.0) == []


def test_peers_of_the_zone_come_first_but_not_alone() -> None:
    """If there are more holders than wanted, a quarter of the places is for other zones."""
    peers = [
        Peer(f"{zone}{each}", "10.0.0.1", each, zone=zone)
        for zone in ("here", "there", "")
        for each in range(30)
    ]
    table = table_with(*peers)
    table._zone = "here"
    for limit, near in ((8, 6), (40, 30), (4, 3), (1, 1), (90, 30), (None, 30)):
        found = table.providers(KEY, now=1.0, limit=limit)
        assert len(found) == min(limit or 90, 90)
        assert sum(peer.zone == "here" for peer in found) == near
        assert len(set(found)) == len(found)
    few = table_with(*peers[29:])
    few._zone = "here"
    assert sum(peer.zone == "here" for peer in few.providers(KEY, now=1.0, limit=8)) == 1


def test_an_announcement_lives_twice_its_interval() -> None:
    """A peer not heard from for 2 x its interval is not offered any more; one word from it and it
    is again."""
    table = table_with(A, interval=5.0)
    assert table.providers(KEY, now=9.9) == [A]
    assert table.providers(KEY, now=10.0) == []
    assert table.silent(now=10.0) == ["A"]
    table.heard("A", now=12.0)
    assert table.providers(KEY, now=21.9) == [A]
    assert table.silent(now=21.9) == []


def test_a_disconnected_peer_is_gone_at_once() -> None:
    """The moment a connection is lost, nothing its peer announced is offered, and a late frame
    changes nothing."""
    table = table_with(A)
    table.peer_disconnected("A")
    table.add("A", [OTHER])
    table.hello("A", A, interval=5.0, now=1.0)
    assert table.providers(KEY, now=1.0) == table.providers(OTHER, now=1.0) == []
    assert not table.is_connected("A")


def test_a_peer_that_comes_back_starts_with_nothing() -> None:
    """After a reconnect only what is announced anew counts: it may have lost content meanwhile."""
    table = table_with(A)
    table.peer_disconnected("A")
    table.peer_connected("A")
    table.hello("A", A, interval=5.0, now=1.0)
    assert table.providers(KEY, now=1.0) == []


def test_a_whole_set_replaces_the_old_one_only_when_it_is_complete() -> None:
    """Parts of a set that is being sent change nothing until its last part is in."""
    table = table_with(A)
    table.stage("A", [OTHER], first=True)
    assert table.providers(KEY, now=1.0) == [A]
    table.commit("A", complete=True)
    assert table.providers(KEY, now=1.0) == []
    assert table.providers(OTHER, now=1.0) == [A]


def test_deltas_add_and_remove() -> None:
    """Added keys are offered, removed ones are not."""
    table = table_with(A)
    table.add("A", [OTHER, OTHER])
    table.remove("A", [KEY, KEY])
    assert table.providers(OTHER, now=1.0) == [A]
    assert table.providers(KEY, now=1.0) == []
    assert table.in_step("A", count=1, check=checksum([OTHER]))


def test_a_peer_out_of_step_is_noticed() -> None:
    """A different count or checksum says that a change was lost."""
    table = table_with(A, keys=(KEY, OTHER))
    assert table.in_step("A", count=2, check=checksum([OTHER, KEY]))
    assert not table.in_step("A", count=1, check=checksum([KEY]))
    assert not table.in_step("A", count=2, check=0)


def test_a_miss_is_certain_only_with_every_connected_peers_whole_set() -> None:
    """One peer whose set is partial, missing or run out makes a miss uncertain."""
    table = table_with(A, B)
    assert table.knows_all(now=1.0)
    table.peer_connected("C")
    assert not table.knows_all(now=1.0)
    table.hello("C", Peer("C", "10.0.0.3", 5000), interval=5.0, now=1.0)
    table.stage("C", [], first=True)
    table.commit("C", complete=False)
    assert not table.knows_all(now=1.0)
    table.peer_disconnected("C")
    assert table.knows_all(now=1.0)
    assert not table.knows_all(now=11.0)


def test_standard_records_have_a_life_of_their_own() -> None:
    """A provider record of a standard peer is offered until it runs out, and hidden while the peer
    is away."""
    table = RecordTable(rng=random.Random(1))
    table.peer_connected("A")
    assert table.provide("A", KEY, A, expires=100.0)
    assert table.providers(KEY, now=99.0) == [A]
    table.peer_disconnected("A")
    assert table.providers(KEY, now=50.0) == []
    table.peer_connected("A")
    assert table.providers(KEY, now=50.0) == [A]
    assert table.providers(KEY, now=100.0) == []
    table.expire(now=100.0)
    assert table.size() == 0


def test_standard_records_that_came_together_expire_together() -> None:
    """A record that is renewed lives on; the others live as long as the last that came with
    them."""
    table = RecordTable(rng=random.Random(1))
    table.peer_connected("A")
    for key, expires in ((KEY, 1000.0), (OTHER, 1100.0), (KEY, 1200.0)):
        assert table.provide("A", key, A, expires=expires)
        assert table.provide("A", key, A, expires=expires)
    assert table.records()["provided"] == 2
    table.expire(now=1150.0)
    assert (table.providers(KEY, now=1150.0), table.providers(OTHER, now=1150.0)) == ([A], [])
    table.expire(now=1200.0)
    assert table.size() == 0


def test_a_withdrawn_key_takes_its_standard_record_along() -> None:
    """A peer that speaks both protocols and withdraws a key is not offered for it through an older
    record."""
    table = table_with(A)
    table.provide("A", KEY, A, expires=100.0)
    table.remove("A", [KEY])
    assert table.providers(KEY, now=1.0) == []


def test_one_peer_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys beyond the bound are refused and counted, by either protocol."""
    monkeypatch.setattr(peer_records, "MAX_KEYS_PER_PEER", 2)
    table = table_with(A, keys=())
    keys = [name_hash(str(number)) for number in range(5)]
    assert table.add("A", keys) == 3
    assert table.size() == 2
    assert [table.provide("B", key, B, expires=9.0) for key in keys[:3]] == [True, True, False]


def told(table: RecordTable, peer: Peer, count: int, *, bound_key: str = "") -> int:
    """Let a new peer announce so many keys, and return how many were refused."""
    table.peer_connected(peer.id, bound_key=bound_key)
    table.hello(peer.id, peer, interval=5.0, now=0.0)
    over = table.stage(
        peer.id, [name_hash(f"{peer.id}{number}") for number in range(count)], first=True
    )
    table.commit(peer.id, complete=True)
    return over


def test_peers_at_one_address_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with many identities holds no more than one; others are not concerned."""
    monkeypatch.setattr(records, "MAX_RECORDS_PER_ADDRESS", 10)
    table = RecordTable(rng=random.Random(1))
    assert (told(table, A, 6, bound_key="10.0.0.1"), told(table, B, 6, bound_key="10.0.0.1")) == (
        0,
        2,
    )
    assert told(table, Peer("honest", "10.0.0.3", 5000), 9) == 0


def fill(monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
    """Let the index of all peers hold so many keys."""
    monkeypatch.setattr(holders, "MAX_INDEX", keys * (holders.KEY_COST + 1))


def test_keys_that_others_hold_fit_into_a_full_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of any size that holds the same images costs hardly more than one node."""
    fill(monkeypatch, 100)
    keys = tuple(name_hash(str(number)) for number in range(90))
    table = table_with(*(Peer(str(n), f"10.0.0.{n}", 5000) for n in range(6)), keys=keys)
    assert table.size() == 540
    assert table.knows_all(now=1.0)
    assert all(len(table.providers(key, now=1.0)) == 6 for key in keys)


def test_a_full_table_gives_up_keys_of_the_greediest_peers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer with few keys finds room, and keys that such a peer holds too stay."""
    fill(monkeypatch, 100)
    shed: list[int] = []
    table = RecordTable(rng=random.Random(1), shed=lambda: shed.append(1))
    few = [name_hash(f"{each.id}{number}") for each in (A, B) for number in range(5)]
    assert told(table, A, 50) == 0
    assert told(table, B, 60) == 10  # it is the greediest itself
    modest = Peer("modest", "10.0.0.3", 5000)
    table.peer_connected(modest.id)
    table.hello(modest.id, modest, interval=5.0, now=0.0)
    assert table.add(modest.id, few) == 0
    assert shed == []
    assert told(table, Peer("other", "10.0.0.4", 5000), 20) == 0
    assert shed == [1]
    assert all(modest in table.providers(key, now=1.0) for key in few)
    assert all(len(table.providers(key, now=1.0)) == 2 for key in few)
    assert (table.knows_all(now=1.0), table.is_partial()) == (False, True)
    held = {each.id: each.keys for each in table.members(now=1.0)}
    assert held["modest"] == 10
    assert held["other"] == 20
    assert held["A"] + held["B"] < 100 - 20 + 10 - 6


def test_identities_at_one_address_are_one_greedy_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Junk that many identities announce is given up before the keys of a single honest peer."""
    fill(monkeypatch, 100)
    table = RecordTable(rng=random.Random(1))
    junk = [name_hash(f"junk {number}") for number in range(60)]
    assert told(table, A, 40) == 0
    for each in range(4):
        rogue = Peer(f"rogue {each}", "10.0.0.9", 5000)
        table.peer_connected(rogue.id, bound_key="10.0.0.9")
        table.hello(rogue.id, rogue, interval=5.0, now=0.0)
        table.add(rogue.id, junk)
    assert told(table, B, 30) == 0
    held = {each.id: each.keys for each in table.members(now=1.0)}
    assert (held["A"], held["B"]) == (40, 30)
    assert held["rogue 0"] < 31


def test_keys_of_departed_peers_are_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provider records that are kept for a peer's return make way for any connected peer's keys."""
    fill(monkeypatch, 100)
    table = RecordTable(rng=random.Random(1))
    table.peer_connected(A.id)
    for number in range(30):
        assert table.provide(A.id, name_hash(f"provided {number}"), A, expires=900.0)
    table.peer_disconnected(A.id)
    assert told(table, B, 95) == 0
    assert table.records()["announced"] == 95
    assert table.records()["provided"] <= 5


def test_a_full_table_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again only after it had room."""
    fill(monkeypatch, 100)
    table = RecordTable(rng=random.Random(1))
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            told(table, A, 80)
            told(table, B, 80)
            told(table, Peer("C", "10.0.0.3", 5000), 20)
        table.peer_disconnected("A")
        table.expire(now=1.0)
        told(table, A, 80)
    assert [each["event"] for each in logged] == [
        "record table is full",
        "record table has room again",
        "record table is full",
    ]


def test_a_set_that_was_cut_is_not_asked_for_again_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it taken for whole; once there is room for it, it is asked for."""
    fill(monkeypatch, 100)
    table = RecordTable(rng=random.Random(1))
    assert (told(table, A, 60), told(table, B, 60)) == (0, 20)
    assert table.in_step("B", count=60, check=1)
    assert (table.knows_all(1.0), table.is_partial()) == (False, True)
    table.peer_disconnected("A")
    table.expire(now=1.0)
    assert not table.in_step("B", count=60, check=1)
    assert told(table, B, 60) == 0
    assert table.knows_all(1.0)


def test_a_peer_that_starts_its_set_again_and_again_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sets that were never finished take no slots for long."""
    table = table_with(A)
    for number in range(1000):
        table.stage("A", [name_hash(str(number))], first=True)
    assert table._index._used.bit_length() < 200
    assert len(table._index) < 200


def test_ages_of_tags_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may give each key an age, though few keys are tags."""
    monkeypatch.setattr(tag_ages, "MAX_TAGS_PER_PEER", 2)
    table = table_with(A, keys=())
    keys = [name_hash(str(number)) for number in range(5)]
    table.add("A", keys)
    table.record_ages("A", [(key, 50) for key in keys], now=1.0)
    assert sum(not table.providers(key, now=1.0, max_age=10.0) for key in keys) == 2


def test_departed_peers_are_forgotten_in_the_end() -> None:
    """Churn costs no memory: of departed peers only the newest few are remembered."""
    table = RecordTable(rng=random.Random(1))
    for number in range(10):
        table.peer_connected(str(number))
        table.provide(str(number), KEY, A, expires=99.0)
        table.peer_disconnected(str(number))
    table.forget_departed(3)
    for number in range(10):
        table.peer_connected(str(number))
    found = table.providers(KEY, now=1.0)
    assert len(found) == 3
    assert table.size() == 3


def test_peers_come_in_random_order() -> None:
    """Every holder comes first sometimes: a bound on the number of peers must not favour the same
    ones."""
    peers = [Peer(str(number), "10.0.0.1", 5000 + number) for number in range(5)]
    table = table_with(*peers)
    assert {table.providers(KEY, now=1.0)[0] for _ in range(200)} == set(peers)


def test_a_member_is_told_with_its_interval_and_its_registry() -> None:
    """Of a peer that announces it is known how often, and since when it was not heard; of a
    standard one neither."""
    table = table_with(A, interval=5.0)
    table.peer_connected("B")
    table.provide("B", KEY, B, expires=100.0)
    one, other = table.members(now=3.0)
    assert (one.peer, one.interval, one.heard) == (A, 5.0, 3.0)
    assert (other.peer, other.interval, other.heard) == (B, None, None)


def test_the_next_pass_is_due_when_the_first_announcement_runs_out() -> None:
    """The shortest interval in force, and the first end of one, are those of connected peers."""
    table = RecordTable(rng=random.Random(1))
    assert (table.shortest_interval(), table.next_end()) == (math.inf, math.inf)
    for peer, interval, now in ((A, 5.0, 10.0), (B, 3.0, 0.0)):
        table.peer_connected(peer.id)
        table.hello(peer.id, peer, interval=interval, now=now)
    assert (table.shortest_interval(), table.next_end()) == (3.0, 6.0)
    table.peer_disconnected("B")
    assert (table.shortest_interval(), table.next_end()) == (5.0, 20.0)


def test_a_goodbye_is_remembered_until_the_peer_is_back() -> None:
    """A peer that said goodbye differs from a lost one."""
    table = table_with(A, B)
    table.peer_left("A")
    table.peer_disconnected("A")
    table.peer_disconnected("B")
    assert (table.left("A"), table.left("B"), table.left("stranger")) == (True, False, False)
    table.peer_connected("A")
    table.hello("A", Peer("A", "10.0.0.1", 5000), interval=4.0, now=0.0)
    table.peer_disconnected("A")
    assert not table.left("A")


def test_a_goodbye_is_taken_back_by_a_hello_alone() -> None:
    """A node that dials a leaving peer, and loses it again, still knows its goodbye."""
    table = RecordTable(rng=random.Random(1))
    table.peer_left("a")
    table.peer_connected("a")
    table.peer_disconnected("a")
    assert table.goodbyes() == {"a"}
    table.peer_connected("a")
    assert table.connected() == []  # nor does it count, to be checked and missed
    assert table.members(0.0) == []
    assert table.knows_all(0.0)
    table.hello("a", Peer("a", "10.0.0.1", 5000), interval=4.0, now=0.0)
    assert table.goodbyes() == frozenset()
    assert table.connected() == ["a"]


def test_records_and_peers_are_counted_by_how_they_came() -> None:
    """Announced and provided records apart, and connected peers by protocol; departed ones do not
    count."""
    table = table_with(A, keys=(KEY, OTHER))
    table.peer_connected(B.id)
    table.provide(B.id, KEY, B, expires=9.0)
    assert (table.records(), table.protocols()) == (
        {"announced": 2, "provided": 1},
        {"announce": 1, "kademlia": 1},
    )
    table.peer_disconnected(A.id)
    assert (table.records(), table.protocols()) == (
        {"announced": 0, "provided": 1},
        {"announce": 0, "kademlia": 1},
    )


def test_a_change_of_who_shares_is_told() -> None:
    """By a different hello, and by the end of a partner; not by other peers."""
    told: list[set[str]] = []
    table = RecordTable(
        rng=random.Random(1), changed=lambda: told.append(set(table.partners(now=1.0)))
    )
    for peer in (A, B):
        table.peer_connected(peer.id)
    table.hello(A.id, A, interval=5.0, now=0.0, shares=True)
    table.hello(A.id, A, interval=7.0, now=0.0, shares=True)
    assert told == [{"A"}]
    table.hello(B.id, B, interval=5.0, now=0.0, shares=False)
    told.clear()
    table.peer_disconnected(B.id)
    assert told == []
    table.peer_disconnected(A.id)
    assert told == [set()]


def test_the_zone_of_a_lost_peer_is_remembered() -> None:
    """Until it is back without one; a peer that names no zone is in none."""
    table = table_with(replace(A, zone="a"), B)
    assert table.zones() == {"A": "a"}
    assert {member.id: member.zone for member in table.members(now=1.0)} == {"A": "a", "B": ""}
    table.peer_disconnected("A")
    assert table.zones() == {"A": "a"}
    table.peer_connected("A")
    table.hello("A", A, interval=5.0, now=2.0)
    assert table.zones() == {}
