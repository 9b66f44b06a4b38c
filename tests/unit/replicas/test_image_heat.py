"""How often images are pulled, and what that is worth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import ContentSource
from spegel_py.replicas.image_heat import HALF_LIFE, HYSTERESIS, ImageHeat, extra_copies
from spegel_py.replicas.replica_plan import Action, ImageState, plan
from spegel_py.replicas.replica_rules import DAY, SURPLUS, DiskUse, ReplicaRules
from spegel_py.replicas.zone_spread import ZoneMap, target_of
from spegel_py.telemetry.pull_record import PullContext

APP = Digest.of(b"app")
ROOMY = DiskUse(total=1000, used=100)
HEAT = st.floats(0, 10_000)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answered(
    *,
    mirrored: bool = False,
    source: ContentSource = ContentSource.LOCAL,
    kind: str = "manifests",
    method: str = "GET",
    client: str = "",
    sent: int = 7,
) -> PullContext:
    headers = {"X-Spegel-Mirrored": "true"} if mirrored else {}
    headers |= {"X-Spegel-Client": client} if client else {}
    pull = PullRequest.parse(
        method=method,
        target=f"/v2/team/app/{kind}/{APP}?ns=registry.example",
        headers=headers.items(),
    )
    context = PullContext(pull=pull, at=0.0)
    context.source, context.digest, context.length, context.sent = source, APP, 7, sent
    return context


def test_pulls_of_runtimes_are_counted_once_in_the_cluster() -> None:
    """A pull from a peer counts half at either end."""
    heat = ImageHeat(clock=Clock())
    heat.count(answered())
    assert heat.of(APP) == 1.0
    heat.count(answered(mirrored=True))
    heat.count(answered(source=ContentSource.PEER))
    assert heat.of(APP) == 2.0


def test_each_pull_counts_for_all_nodes_that_could_have_been_asked() -> None:
    heat = ImageHeat(clock=Clock())
    heat.copies = {APP: 5}
    heat.count(answered(mirrored=True))
    assert heat.of(APP) == 2.5


def test_other_requests_are_not_counted() -> None:
    """A replica that is taken must not make its image hotter."""
    heat = ImageHeat(clock=Clock())
    for context in (
        answered(method="HEAD"),
        answered(kind="blobs"),
        answered(client="replica"),
        answered(client="preheat"),
        answered(client="measure"),
        answered(sent=3),
        answered(source=ContentSource.NONE),
    ):
        heat.count(context)
    assert heat.of(APP) == 0.0


def test_an_image_that_nobody_pulls_gets_cold() -> None:
    clock = Clock()
    heat = ImageHeat(clock=clock)
    heat.add(APP, 16.0)
    assert heat.worth(APP) == 2
    clock.now += HALF_LIFE
    assert heat.of(APP) == 8.0
    heat.learn(APP, 3.0)  # less than this node knows of
    assert heat.of(APP) == 8.0
    assert heat.worth(APP) == 1
    clock.now += HALF_LIFE
    assert heat.worth(APP) == 1  # 4
    clock.now += HALF_LIFE
    assert heat.worth(APP) == 0
    heat.learn(APP, 36.0)
    assert heat.worth(APP) == 3


@given(heat=HEAT, before=st.integers(0, 60))
def test_the_worth_is_the_root_and_holds_for_a_while(heat: float, before: int) -> None:
    found = extra_copies(heat, before)
    assert 4 * found**2 <= HYSTERESIS * heat
    assert 4 * (found + 1) ** 2 > heat
    assert extra_copies(heat, found) == found


@given(heat=st.floats(1, 10_000), noise=st.lists(st.floats(1 / 1.1, 1.1), max_size=20))
def test_a_heat_that_wavers_moves_nothing_twice(heat: float, noise: list[float]) -> None:
    """Once the highest value was seen, a tenth more or less changes nothing."""
    settled = extra_copies(heat * 1.1, 0)
    for factor in noise:
        found = extra_copies(heat * factor, settled)
        assert found == settled


@given(
    floor=st.integers(1, 3),
    ceiling=st.integers(0, 8),
    extras=st.lists(st.integers(0, 6), min_size=6, max_size=10),
    names=st.lists(st.sampled_from("abc"), min_size=10, max_size=10),
    has_zones=st.booleans(),
)
def test_no_heat_leads_below_the_floor(
    floor: int, ceiling: int, extras: list[int], names: list[str], has_zones: bool
) -> None:
    """Whatever each node thinks of the heat: replicas are at most as many as the ceiling when all
    has settled, never fewer than the floor by a node's own action, and in two zones.
    """
    rules = ReplicaRules(floor=floor, ceiling=ceiling)
    of = {str(one): names[one] for one in range(len(extras)) if has_zones}
    zones = ZoneMap(of=of, present=frozenset(of.values()) or frozenset({""}))
    have = {str(one) for one in range(len(extras))}
    kept = set(have)

    def scan(own: str, extra: int, surplus_for: float) -> None:
        image = ImageState(
            manifest=APP,
            size=10,
            is_pulled=True,
            is_held=own in kept,
            renewal_in=DAY,
            holders=frozenset(have - {own}),
            replicas=frozenset(kept - {own}),
            extra=extra,
            surplus_for=surplus_for,
        )
        for decision in plan([image], own=own, rules=rules, disk=ROOMY, zones=zones):
            (kept.add if decision.action is Action.HOLD else kept.discard)(own)

    def round_of(extras: list[int]) -> None:
        for number, extra in enumerate(extras):
            wanted = target_of(rules, zones, extra=extra)
            scan(str(number), extra, SURPLUS if len(kept) > wanted.copies else 0.0)
            assert len(kept) >= floor
            assert len(zones.covered(kept)) >= min(2, floor, len(zones.present))

    round_of(extras)
    assert len(kept) <= max(floor, ceiling)
    settled = set(kept)
    round_of(extras)
    assert kept == settled
    round_of([0] * len(extras))
    assert len(kept) == floor


def test_a_hot_image_is_in_every_zone() -> None:
    zones = ZoneMap(present=frozenset("abc"))
    rules = ReplicaRules(floor=1, ceiling=5)
    assert target_of(rules, zones, extra=0).copies == 1
    hot = target_of(rules, zones, extra=1)
    assert (hot.copies, hot.zones) == (3, 3)
    hottest = target_of(rules, zones, extra=9)
    assert (hottest.copies, hottest.zones) == (5, 3)
    assert target_of(ReplicaRules(floor=2), zones, extra=9) == target_of(
        ReplicaRules(floor=2), zones
    )
