"""The plan of one node, and of clusters whose nodes all follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.oci.digest import Digest
from spegel_py.replicas.replica_plan import (
    Action,
    Decision,
    ImageState,
    Why,
    missing_replicas,
    plan,
)
from spegel_py.replicas.replica_rules import (
    DAY,
    MAY_GROW,
    MUST_SHRINK,
    SHRINK_FROM,
    SURPLUS,
    DiskUse,
    ReplicaRules,
)
from spegel_py.replicas.zone_spread import ONE_ZONE, SPREAD_PATIENCE, ReplicaTarget, ZoneMap

APP = Digest.of(b"app")
ROOMY = DiskUse(total=1000, used=100)


def pulled(**given: object) -> ImageState:
    """An image of the runtime, 10 bytes long."""
    return replace(
        ImageState(manifest=APP, size=10, is_pulled=True, is_held=False),
        **given,  # type: ignore[arg-type]
    )


def held(**given: object) -> ImageState:
    """A replica that the runtime has removed, the next renewal in a day."""
    usual = {"is_pulled": False, "is_held": True, "alone": 10, "renewal_in": DAY}
    return pulled(**usual | given)


def decide(image: ImageState, *, floor: int = 1, disk: DiskUse = ROOMY) -> Decision | None:
    found = plan([image], own="own", rules=ReplicaRules(floor=floor), disk=disk)
    assert len(found) <= 1
    return found[0] if found else None


HOLD = Decision(APP, Action.HOLD, Why.FLOOR)


def released(why: Why) -> Decision:
    return Decision(APP, Action.RELEASE, why)


@pytest.mark.parametrize(
    ("image", "floor", "expected"),
    [
        pytest.param(pulled(), 0, None, id="replicas are off"),
        pytest.param(pulled(), 1, HOLD, id="no other node has it"),
        pytest.param(pulled(replicas=frozenset("a")), 1, None, id="another node keeps it"),
        pytest.param(pulled(replicas=frozenset("a")), 2, HOLD, id="one is missing"),
        pytest.param(pulled(is_excluded=True), 1, None, id="excluded"),
        pytest.param(pulled(size=11 * 1024**3), 1, None, id="too large"),
        pytest.param(pulled(is_pulled=False), 1, None, id="not of the runtime"),
        pytest.param(held(), 1, None, id="kept already"),
        pytest.param(
            held(renewal_in=0.0), 1, Decision(APP, Action.RENEW, Why.RENEWAL), id="renewal is due"
        ),
        pytest.param(held(), 0, released(Why.OFF), id="switched off"),
        pytest.param(held(is_excluded=True), 1, released(Why.OFF), id="excluded since"),
        pytest.param(held(idle=DAY + 1), 1, released(Why.UNWANTED), id="unwanted"),
        pytest.param(
            held(idle=DAY + 1, is_pulled=True), 1, None, id="the runtime has it whatever its age"
        ),
    ],
)
def test_the_plan_for_one_image(image: ImageState, floor: int, expected: Decision | None) -> None:
    assert decide(image, floor=floor) == expected


def test_the_first_of_the_holders_keeps_an_image() -> None:
    """Exactly one of the nodes that have it, whichever of them looks."""
    nodes = [f"node{number}" for number in range(7)]
    keepers = [
        own
        for own in nodes
        if plan(
            [pulled(holders=frozenset(nodes) - {own})],
            own=own,
            rules=ReplicaRules(floor=1),
            disk=ROOMY,
        )
    ]
    assert len(keepers) == 1


def test_a_full_disk_gets_no_new_replica() -> None:
    """The kubelet could not free it."""
    used = DiskUse(total=1000, used=round(1000 * MAY_GROW))
    assert decide(pulled(), disk=used) is None
    assert decide(pulled(), disk=DiskUse(total=1000, used=749)) == HOLD


def test_replicas_stay_within_their_share_of_the_disk() -> None:
    assert decide(pulled(alone=10), disk=replace(ROOMY, alone=91)) is None
    assert decide(pulled(alone=10), disk=replace(ROOMY, alone=90)) == HOLD
    assert decide(held(), disk=replace(ROOMY, alone=101)) == released(Why.DISK)
    assert decide(held(), disk=replace(ROOMY, alone=100)) is None


@pytest.mark.parametrize("share", [SHRINK_FROM, MUST_SHRINK])
def test_a_filling_disk_releases_what_others_keep_first(share: float) -> None:
    """The only replica of an image stays until the kubelet is about to act."""
    disk = DiskUse(total=1000, used=round(1000 * share), alone=40)
    only, shared = Digest.of(b"only"), Digest.of(b"shared")
    old, young = Digest.of(b"old"), Digest.of(b"young")
    images = [
        held(idle=50.0),
        replace(held(idle=999.0), manifest=only),
        replace(held(replicas=frozenset("ab")), manifest=shared),
        replace(held(replicas=frozenset("a"), idle=9.0), manifest=young),
        replace(held(replicas=frozenset("a"), idle=90.0), manifest=old),
        pulled(is_held=True, renewal_in=DAY, alone=0, replicas=frozenset("abc")),
    ]
    found = plan(images, own="own", rules=ReplicaRules(floor=9), disk=disk)
    assert [one.manifest for one in found] == (
        [shared, old] if share == SHRINK_FROM else [shared, old, young, only, APP][: len(found)]
    )
    assert {one.why for one in found} == {Why.DISK}
    left = disk.used - 10 * len(found)
    assert share == MUST_SHRINK or left / disk.total <= 0.78


def test_too_many_replicas_are_reduced_after_a_while() -> None:
    """The last ones of the ranking go, so that all nodes agree who stays."""
    nodes = [f"node{number}" for number in range(5)]

    def stays(own: str, surplus_for: float) -> bool:
        image = held(replicas=frozenset(nodes) - {own}, surplus_for=surplus_for)
        return not plan([image], own=own, rules=ReplicaRules(floor=2), disk=ROOMY)

    assert all(stays(own, SURPLUS - 1) for own in nodes)
    assert sum(stays(own, SURPLUS) for own in nodes) == 2


@given(
    floor=st.integers(1, 5),
    have=st.sets(st.integers(0, 11), min_size=1),
    keep=st.sets(st.integers(0, 11)),
    data=st.data(),
)
def test_nodes_that_agree_reach_the_floor_and_stay_there(
    floor: int, have: set[int], keep: set[int], data: st.DataObject
) -> None:
    """One round of scans in any order leaves the floor, or as many replicas as nodes have it.

    No node goes below the floor by its own action, and nothing changes any more afterwards.
    """
    rules = ReplicaRules(floor=floor)
    keepers = keep & have
    before = len(keepers)

    def scan(number: int, surplus_for: float) -> None:
        image = ImageState(
            manifest=APP,
            size=10,
            is_pulled=True,
            is_held=number in keepers,
            renewal_in=DAY,
            holders=frozenset(str(one) for one in have - {number}),
            replicas=frozenset(str(one) for one in keepers - {number}),
            surplus_for=surplus_for,
        )
        for decision in plan([image], own=str(number), rules=rules, disk=ROOMY):
            (keepers.add if decision.action is Action.HOLD else keepers.discard)(number)

    order = data.draw(st.permutations(sorted(have)))
    for number in order:
        scan(number, 0.0)
        assert len(keepers) >= min(floor, before)
    assert len(keepers) == max(before, min(floor, len(have)))
    settled = set(keepers)
    for number in order:
        scan(number, 0.0)
    assert keepers == settled
    for number in order:
        scan(number, SURPLUS if len(keepers) > floor else 0.0)
        assert len(keepers) >= min(floor, before)
    assert len(keepers) == min(floor, len(have))


def missing(image: ImageState, copies: int) -> int:
    return missing_replicas(image, ReplicaTarget(copies), own="own", zones=ONE_ZONE)


def test_missing_replicas() -> None:
    assert missing(pulled(replicas=frozenset("ab")), 4) == 2
    assert missing(held(replicas=frozenset("ab")), 4) == 1
    assert missing(held(replicas=frozenset("ab")), 1) == 0


def test_a_preheated_image_is_left_alone_until_its_own_time() -> None:
    """Whatever the floor and the use; only a full disk ends it early."""
    image = held(is_preheated=True, is_excluded=True, idle=9e9, renewal_in=-1.0, surplus_for=9e9)
    assert decide(image, floor=0) is None
    assert decide(image, floor=1) is None
    full = DiskUse(total=1000, used=int(1000 * MUST_SHRINK) + 1)
    assert decide(image, disk=full) == released(Why.DISK)


def test_a_node_that_drains_keeps_its_replicas_and_adds_none() -> None:
    """They do not count, but they are sources for the nodes that take the images."""
    assert missing(held(is_leaving=True), 1) == 1
    assert decide(pulled(is_leaving=True)) is None
    surplus = held(is_leaving=True, replicas=frozenset("abc"), surplus_for=SURPLUS)
    assert decide(surplus) is None


TWO_ZONES = ZoneMap(
    of={"own": "a", "a1": "a", "a2": "a", "b1": "b", "b2": "b"}, present=frozenset("ab")
)


def in_zones(image: ImageState, *, floor: int = 2, own: str = "own") -> list[Decision]:
    return plan([image], own=own, rules=ReplicaRules(floor=floor), disk=ROOMY, zones=TWO_ZONES)


def test_the_last_replica_is_left_to_another_zone() -> None:
    """Though it would cost nothing here, until nodes of other zones must have refused it."""
    image = pulled(replicas=frozenset({"a1"}))
    assert in_zones(image) == []
    assert in_zones(image, floor=3) == [HOLD]
    assert in_zones(replace(image, missing_for=SPREAD_PATIENCE)) == [HOLD]
    assert in_zones(pulled(replicas=frozenset({"b1"}))) == [HOLD]


def test_a_replica_is_added_where_no_zone_has_one() -> None:
    """The floor alone is not enough if all replicas are in one zone."""
    assert in_zones(pulled(replicas=frozenset({"b1", "b2"}))) == [HOLD]
    assert in_zones(pulled(replicas=frozenset({"a1", "a2"}))) == []
    assert in_zones(pulled(replicas=frozenset({"a1", "b1"}))) == []


def test_a_surplus_is_released_in_the_fullest_zone() -> None:
    """The only replica of a zone stays, whatever its rank."""
    everywhere = frozenset({"own", "a1", "a2", "b1"})
    left = {
        own
        for own in everywhere
        if not in_zones(held(replicas=everywhere - {own}, surplus_for=SURPLUS), own=own)
    }
    assert len(left) == 2
    assert "b1" in left
