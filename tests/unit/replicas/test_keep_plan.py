"""Whom a node asks to keep its images."""

from __future__ import annotations

from dataclasses import replace

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.replicas.keep_plan import (
    BRAKED,
    MAX_TAKING,
    NEW,
    UNWILLING,
    KeeperView,
    KeepState,
    choose_keepers,
    is_speaker,
)
from spegel_py.replicas.replica_plan import ImageState
from spegel_py.replicas.replica_rules import ReplicaRules
from spegel_py.replicas.zone_spread import SPREAD_PATIENCE, ZoneMap

IMAGE = Digest.of(b"image")
NODES = frozenset(f"n{number}" for number in range(8))
RULES = ReplicaRules(floor=3)


def state(*, own: str = "n0", is_held: bool = True, **fields: object) -> KeepState:
    image = ImageState(
        manifest=IMAGE,
        size=10,
        is_pulled=True,
        is_held=is_held,
        **fields,  # type: ignore[arg-type]
    )
    return KeepState(image=image, known_for=NEW, missing_for=0.0)


def view(
    own: str = "n0", *, is_braked: bool = False, keepers: frozenset[str] = NODES
) -> KeeperView:
    return KeeperView(own=own, keepers=keepers - {own}, is_braked=is_braked)


def asked(one: KeepState, at: KeeperView, rules: ReplicaRules = RULES) -> list[str]:
    return [choice.node for choice in choose_keepers([one], view=at, rules=rules)]


def test_a_single_holder_asks_the_first_of_the_other_nodes() -> None:
    """As many as are missing, in the rank that all nodes know."""
    assert asked(state(), view()) == ranked_nodes(IMAGE, NODES - {"n0"}, 2)


def test_only_the_speaker_asks() -> None:
    """Of the nodes with the image, the first in the rank asks."""
    holders = frozenset({"n1", "n2"})
    [first] = ranked_nodes(IMAGE, holders | {"n0"}, 1)
    for own in ("n0", "n1", "n2"):
        others = (holders | {"n0"}) - {own}
        one = state(holders=others, replicas=others)
        at = view(own)
        assert is_speaker(one.image, at) == (own == first)
        assert bool(asked(one, at, ReplicaRules(floor=4))) == (own == first)


def test_a_holder_that_keeps_no_replicas_does_not_speak() -> None:
    """An older node does not ask, so it must not be waited for."""
    [first] = ranked_nodes(IMAGE, NODES - {"n0"}, 1)
    one = state(holders=frozenset({first}))
    assert asked(one, view(keepers=NODES - {first}))


def test_a_new_image_is_not_asked_for_yet() -> None:
    """The nodes of a rollout are about to have it anyway."""
    assert not asked(replace(state(), known_for=NEW - 1), view())


def test_nodes_with_the_image_keep_it_before_others_take_it() -> None:
    """They need no bytes. After a while they are no longer waited for."""
    spare = next(node for node in sorted(NODES - {"n0"}) if _speaks(node))
    one = state(holders=frozenset({spare}))
    assert len(asked(one, view())) == 1
    assert len(asked(replace(one, missing_for=UNWILLING), view())) == 2


def _speaks(holder: str) -> bool:
    return ranked_nodes(IMAGE, {holder, "n0"}, 1) == ["n0"]


def test_promises_and_refusals_are_respected() -> None:
    """A promise counts as a replica, and a refusal leads to the next node."""
    first, second, third = ranked_nodes(IMAGE, NODES - {"n0"}, 3)
    assert asked(replace(state(), promised=frozenset({first})), view()) == [second]
    assert asked(replace(state(), refused=frozenset({first})), view()) == [second, third]
    gone = view(keepers=NODES - {first})
    assert asked(replace(state(), promised=frozenset({first})), gone) == [second, third]


def test_a_small_cluster_wants_as_many_replicas_as_nodes() -> None:
    """A floor above the number of nodes asks nobody twice."""
    assert asked(state(), view(keepers=frozenset({"n0", "n1"})), ReplicaRules(floor=9)) == ["n1"]
    assert not asked(state(), view(keepers=frozenset({"n0"})), ReplicaRules(floor=9))


def test_after_many_losses_images_wait() -> None:
    """The lost nodes may be back soon; a single copy waits a quarter of an hour."""
    spare = next(node for node in sorted(NODES - {"n0"}) if _speaks(node))
    assert not asked(state(replicas=frozenset({spare})), view(is_braked=True))
    assert not asked(state(), view(is_braked=True))
    single = replace(state(), missing_for=BRAKED)
    assert len(asked(single, view(is_braked=True))) == 2


def test_the_rarest_and_smallest_images_come_first() -> None:
    """Only so many are taken at the same time."""
    states = []
    for number in range(10):
        digest = Digest.of(str(number).encode())
        image = ImageState(manifest=digest, size=10 - number, is_pulled=True, is_held=True)
        states.append(KeepState(image=image, known_for=NEW, missing_for=0.0))
    rules = ReplicaRules(floor=2)
    found = choose_keepers(states, view=view(), rules=rules)
    assert [one.manifest for one in found] == [
        one.image.manifest for one in states[::-1][:MAX_TAKING]
    ]
    assert len(choose_keepers(states, view=view(), rules=rules, without=MAX_TAKING - 1)) == 1


def test_an_image_that_is_excluded_or_too_large_is_not_asked_for() -> None:
    """The settings of this node count."""
    assert not asked(state(is_excluded=True), view())
    assert not asked(state(), view(), ReplicaRules(floor=3, max_image=5))


def test_a_node_that_drains_asks_for_the_images_that_no_keeper_has() -> None:
    """Its own replica does not count. The other nodes with an image ask for it themselves."""
    leaving = replace(view(), is_leaving=True)
    alone = state()
    alone = replace(alone, image=replace(alone.image, is_leaving=True))
    assert asked(alone, leaving) == ranked_nodes(IMAGE, NODES - {"n0"}, 3)
    shared = replace(alone, image=replace(alone.image, holders=frozenset({"n5"})))
    assert not asked(shared, leaving)
    [last] = frozenset({"n1"})
    assert len(asked(alone, replace(leaving, keepers=frozenset({last})))) == 1


def zoned(**given: object) -> KeeperView:
    """The node n0 is in the zone a with the even nodes, the odd ones are in b."""
    of = {node: "b" if int(node[1:]) % 2 else "a" for node in NODES}
    return replace(view(**given), zones=ZoneMap(of=of, present=frozenset("ab")))  # type: ignore[arg-type]


def test_replicas_are_asked_for_in_other_zones() -> None:
    """The first of the rank in the zone with the fewest replicas, never all in one zone."""
    odd = [node for node in ranked_nodes(IMAGE, NODES - {"n0"}, 9) if int(node[1:]) % 2]
    even = [node for node in ranked_nodes(IMAGE, NODES - {"n0"}, 9) if not int(node[1:]) % 2]
    assert asked(state(), zoned(), ReplicaRules(floor=2)) == odd[:1]
    assert asked(state(), zoned()) == [odd[0], ranked_nodes(IMAGE, {even[0], odd[1]}, 1)[0]]


def test_a_full_floor_in_one_zone_gets_a_replica_in_another() -> None:
    """Nodes that refused are not replaced by nodes of the full zone."""
    odd = frozenset(node for node in NODES if int(node[1:]) % 2)
    spare = next(node for node in sorted(NODES - odd - {"n0"}) if _speaks(node))
    one = state(replicas=frozenset({spare}), holders=frozenset({spare}))
    floor = ReplicaRules(floor=2)
    assert set(asked(one, zoned(), floor)) < odd
    assert asked(replace(one, refused=odd, missing_for=SPREAD_PATIENCE), zoned(), floor) == []


def test_a_zone_that_refuses_is_not_waited_for_for_ever() -> None:
    """The floor counts more than its zones."""
    odd = frozenset(node for node in NODES if int(node[1:]) % 2)
    one, floor = replace(state(), refused=odd), ReplicaRules(floor=2)
    assert asked(one, zoned(), floor) == []
    [found] = asked(replace(one, missing_for=SPREAD_PATIENCE), zoned(), floor)
    assert found not in odd
