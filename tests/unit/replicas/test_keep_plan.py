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
