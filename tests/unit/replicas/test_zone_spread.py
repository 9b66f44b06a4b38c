"""Which nodes make replicas, in different zones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_rules import ReplicaRules
from spegel_py.replicas.zone_spread import (
    ONE_ZONE,
    ReplicaTarget,
    ZoneMap,
    choose_spread,
    shortage,
    target_of,
)

APP = Digest.of(b"app")
ZONES = "abc"


def zones_of(nodes: dict[int, str]) -> ZoneMap:
    return ZoneMap(of={str(one): zone for one, zone in nodes.items()}, present=frozenset(ZONES))


def test_in_one_zone_the_rank_decides() -> None:
    nodes = {str(one) for one in range(9)}
    found = choose_spread(APP, nodes, kept=(), target=ReplicaTarget(3), zones=ONE_ZONE)
    assert found == ranked_nodes(APP, nodes, 3)


def test_the_target_needs_two_zones_where_there_are_two() -> None:
    """One replica is in one zone, and a floor above the number of nodes is cut."""
    several = ZoneMap(present=frozenset(ZONES))
    assert target_of(ReplicaRules(floor=3), several) == ReplicaTarget(3, 2)
    assert target_of(ReplicaRules(floor=3), ONE_ZONE) == ReplicaTarget(3, 1)
    assert target_of(ReplicaRules(floor=1), several) == ReplicaTarget(1, 1)
    assert target_of(ReplicaRules(floor=9), several, nodes=4) == ReplicaTarget(4, 2)
    assert target_of(ReplicaRules(floor=0), several) == ReplicaTarget(0, 0)


NODES = st.dictionaries(st.integers(0, 40), st.sampled_from(ZONES), min_size=1, max_size=12)


@given(nodes=NODES, kept=NODES, copies=st.integers(0, 6), spread=st.integers(1, 3))
def test_the_choice_fills_the_target_and_spreads(
    nodes: dict[int, str], kept: dict[int, str], copies: int, spread: int
) -> None:
    """It takes no more than are missing, and leaves the last ones to zones without a replica."""
    zones = zones_of(kept | nodes)
    candidates = {str(one) for one in nodes.keys() - kept.keys()}
    have = {str(one) for one in kept}
    target = ReplicaTarget(copies, min(copies, spread))
    missing = shortage(have, target, zones)
    chosen = choose_spread(APP, candidates, kept=have, target=target, zones=zones)
    assert len(set(chosen)) == len(chosen) <= missing
    assert set(chosen) <= candidates
    after = have | set(chosen)
    reachable = zones.covered(candidates | have)
    assert len(zones.covered(after)) >= min(len(reachable), target.zones)
    if len(reachable) >= target.zones:
        assert len(chosen) == min(missing, len(candidates)) or not shortage(after, target, zones)
    counts = [sum(zones.zone(one) == zone for one in after) for zone in ZONES]
    for one in chosen:  # no zone without a replica is passed over
        others = {zones.zone(each) for each in candidates - after}
        own = counts[ZONES.index(zones.zone(one))]
        assert own <= 1 + min((counts[ZONES.index(zone)] for zone in others), default=own)


@given(nodes=NODES, copies=st.integers(1, 6), order=st.randoms())
def test_all_nodes_choose_alike(nodes: dict[int, str], copies: int, order: object) -> None:
    zones = zones_of(nodes)
    target = ReplicaTarget(copies, min(2, copies))
    names = [str(one) for one in nodes]
    first = choose_spread(APP, names, kept=(), target=target, zones=zones)
    order.shuffle(names)  # type: ignore[attr-defined]
    assert choose_spread(APP, names, kept=(), target=target, zones=zones) == first
