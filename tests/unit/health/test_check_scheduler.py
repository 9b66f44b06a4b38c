"""Which peers are checked when: bounded, fair, and not in waves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spegel_py.health.check_scheduler import BUDGET, INTEREST, NEW, OTHERS, CheckScheduler
from spegel_py.routing.base import Peer
from tests.benchmarks.liveness import simulate

INTERVAL, TICK = 10.0, 0.25


def peers(count: int) -> list[Peer]:
    return [Peer(f"p{number:04}", "10.0.0.1", 5000 + number) for number in range(count)]


def scheduler(seed: int = 1) -> CheckScheduler:
    return CheckScheduler(interval=INTERVAL, random=Random(seed))


def checks(
    one: CheckScheduler, seconds: float, *, start: float = 0.0
) -> Iterator[tuple[float, Peer]]:
    """Yield every check with its time."""
    for tick in range(int(seconds / TICK)):
        now = start + tick * TICK
        for peer in one.due(now, BUDGET):
            yield now, peer


@pytest.mark.parametrize("count", [1, 9, BUDGET])
def test_each_peer_in_use_is_checked_every_interval(count: int) -> None:
    """Up to the budget all peers in use are checked, each at most 1.1 intervals and a tick after
    its last check."""
    one = scheduler()
    for peer in peers(count):
        one.record_use(peer, 0.0)
    times: dict[Peer, list[float]] = {}
    for now, peer in checks(one, INTEREST):
        times.setdefault(peer, [0.0]).append(now)
    assert times.keys() == set(peers(count))
    gaps = [late - early for each in times.values() for early, late in pairwise(each)]
    assert max(gaps) <= 1.1 * INTERVAL + TICK
    assert (
        min(late - early for each in times.values() for early, late in pairwise(each[1:]))
        >= 0.9 * INTERVAL
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(), st.sampled_from([50, 200, 1000]), st.integers(0, 100))
def test_the_budget_holds_whatever_the_cluster(seed: int, count: int, asked: int) -> None:
    """Ten intervals see no more checks than the budget and its jitter allow, and the busiest peers
    are in."""
    one, everybody = scheduler(seed), peers(count)
    one.set_members(everybody, 0.0)
    for peer in everybody[:asked]:
        one.record_use(peer, 0.0)
    made = Counter(peer for _, peer in checks(one, 100))
    assert made.total() <= BUDGET * 10 / 0.9 + BUDGET
    kept = everybody[max(0, min(asked, count) - (BUDGET - NEW)) : min(asked, count)]
    assert all(made[peer] >= 8 for peer in kept)


def test_new_peers_are_checked_once_and_then_hardly_any() -> None:
    """Each of 40 peers is checked within a minute; from then on a node that pulls nothing makes one
    check in an interval, in a cluster of any size."""
    one, everybody = scheduler(), peers(40)
    one.set_members(everybody, 0.0)
    first = [peer for _, peer in checks(one, 60)]
    assert set(first) == set(everybody)
    assert len(first) <= len(everybody) + OTHERS
    later = Counter(peer for _, peer in checks(one, 100 * INTERVAL, start=60))
    assert 90 * OTHERS <= later.total() <= 110 * OTHERS
    assert max(later.values()) - min(later.values()) <= 2, "they take turns"


def test_one_new_peer_of_an_idle_cluster_is_checked_within_an_interval() -> None:
    """It does not wait for its turn among the others."""
    one, everybody = scheduler(), peers(30)
    one.set_members(everybody[:-1], 0.0)
    list(checks(one, 60))
    one.set_members(everybody, 60.0)
    assert everybody[-1] in [peer for _, peer in checks(one, INTERVAL + TICK, start=60)]


def test_checks_do_not_come_in_waves() -> None:
    """A thousand nodes that start at the same moment ask one peer evenly: no second sees three
    times its share."""
    [peer] = peers(1)
    seconds: Counter[int] = Counter()
    for seed in range(1000):
        one = scheduler(seed)
        one.set_members([peer], 0.0)
        seconds.update(int(now) for now, _ in checks(one, 60))
    share = sum(seconds.values()) / 60
    assert max(seconds.values()) < 1.5 * share


def test_an_urgent_check_is_due_at_once_and_once() -> None:
    """A peer that failed a request is checked now, member or not; a busy one waits its turn."""
    one = scheduler()
    [peer] = peers(1)
    one.check_soon(peer, 5.0)
    one.check_soon(peer, 6.0)
    assert one.due(5.0, BUDGET, {peer.id}) == []
    assert one.due(5.0, 0) == []
    assert one.due(5.0, BUDGET) == [peer]
    assert one.due(6.0, BUDGET) == []


def test_a_check_may_be_hurried_for_later() -> None:
    """The earlier of two times counts."""
    one = scheduler()
    [peer] = peers(1)
    one.check_soon(peer, 0.0, after=0.5)
    one.check_soon(peer, 0.0, after=9.0)
    assert one.due(0.25, BUDGET) == []
    assert one.due(0.5, BUDGET) == [peer]


def test_the_next_look_is_told() -> None:
    """No check is due before it: it covers urgent checks, planned checks and the next plan."""
    one, woken = scheduler(), []
    one.set_members(peers(3), 0.0)
    one.set_wake(lambda: woken.append(one.next_at()))
    assert one.due(0.0, BUDGET) == []
    while (now := one.next_at()) < 5 * INTERVAL:
        before = one.next_at() - 0.001
        assert one.due(before, BUDGET) == []
        one.due(now, BUDGET)
        assert one.next_at() > now
    one.check_soon(peers(1)[0], now, after=0.0)
    assert woken == [now]


def test_who_is_watched_comes_first() -> None:
    """A peer that does not answer is checked in every interval, however many others there are to
    ask."""
    one, everybody = scheduler(), peers(500)
    one.set_members(everybody, 0.0)
    one.prioritise(everybody[0], on=True)
    for peer in everybody[100:200]:
        one.record_use(peer, 0.0)
    assert Counter(peer for _, peer in checks(one, 100))[everybody[0]] >= 9


def test_interest_fades() -> None:
    """A peer that is no member and was offered five minutes ago is checked no more."""
    one = scheduler()
    [peer] = peers(1)
    one.record_use(peer, 0.0)
    times = [now for now, _ in checks(one, 2 * INTEREST)]
    assert INTEREST - 2 * INTERVAL <= times[-1] <= INTEREST + 2 * INTERVAL


def test_who_is_forgotten_is_not_checked() -> None:
    """A peer that left is asked for nothing more, urgent or planned."""
    one = scheduler()
    [peer] = peers(1)
    one.set_members([peer], 0.0)
    one.record_use(peer, 0.0)
    one.prioritise(peer, on=True)
    assert one.due(0.0, BUDGET) == []
    one.check_soon(peer, 0.0)
    one.forget(peer.id)
    assert list(checks(one, 60)) == []


def test_what_liveness_costs_is_bounded_whatever_the_cluster() -> None:
    """With real frames and the real scheduler a node without pulls sends below 500 B/s at any
    size, and a tenth more at most at 1,000 nodes than at 300."""
    large, larger = simulate(300), simulate(1000)
    assert simulate(10).total < larger.total <= 1.1 * large.total < 500


def test_who_has_just_answered_a_request_is_not_checked_for_an_interval() -> None:
    """A request shows more than a check; a peer with priority is checked all the same."""
    one, (served, watched) = scheduler(), peers(2)
    one.set_members([served, watched], 0.0)
    one.prioritise(watched, on=True)
    assert {peer for _, peer in checks(one, INTERVAL)} == {served, watched}
    made = Counter[Peer]()
    for second in range(10, 40):
        one.record_answer(served, second)
        one.record_answer(watched, second)
        made.update(one.due(second, BUDGET))
    assert made[served] == 0
    assert made[watched] >= 2
    assert {peer for _, peer in checks(one, 1.2 * INTERVAL, start=40)} == {served, watched}
