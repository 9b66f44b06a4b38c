"""Which nodes are meant."""

from __future__ import annotations

import pytest

from spegel_py.errors import RequestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.preheat.node_choice import KnownNode, check, choose, is_meant
from spegel_py.preheat.preheat_request import NodeChoice

IMAGE = Digest.of(b"image")
NODES = [KnownNode(f"12D3KooW-node-{n}", f"10.0.0.{n}", f"worker-{n}") for n in range(1, 6)]
OWN, *OTHERS = NODES


def chosen(written: object, own: KnownNode = OWN) -> list[str]:
    others = [node for node in NODES if node is not own]
    return choose(NodeChoice.parse(written), IMAGE, own=own, others=others)


def test_all_nodes_are_this_one_and_the_others() -> None:
    assert sorted(chosen("all")) == sorted(node.id for node in NODES)


def test_a_number_chooses_the_same_nodes_everywhere() -> None:
    """So every node can decide for itself whether a list means it."""
    views = {tuple(chosen(2, own)) for own in NODES}
    assert len(views) == 1
    meant = [
        node.id
        for node in NODES
        if is_meant(NodeChoice(count=2), IMAGE, own=node, others=set(NODES) - {node})
    ]
    assert sorted(meant) == sorted(views.pop())


@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        ("this", [1]),
        ("10.0.0.2", [2]),
        ("worker-3,10.0.0.2,worker-3", [3, 2]),
        (["12D3KooW-node-4"], [4]),
        ("…node-5", [5]),
    ],
)
def test_names_are_ids_their_ends_addresses_and_names(written: object, numbers: list[int]) -> None:
    assert chosen(written) == [NODES[number - 1].id for number in numbers]


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (9, "9 are more than the 5 that are there"),
        ("10.0.0.9", "there is no node '10.0.0.9'; known are 10.0.0.1"),
        ("ode-1", "there is no node"),
        ("zone=eu-1a", "no node is in the zone 'eu-1a'; no node has a zone"),
    ],
)
def test_nodes_that_are_not_there_are_refused(written: object, fault: str) -> None:
    with pytest.raises(RequestInvalid) as raised:
        check(NodeChoice.parse(written), own=OWN, others=OTHERS)
    assert fault in str(raised.value)


def test_an_end_of_several_ids_is_refused() -> None:
    twins = [KnownNode("x-same-end"), KnownNode("y-same-end")]
    with pytest.raises(RequestInvalid, match="names 2 nodes"):
        check(NodeChoice(names=("same-end",)), own=OWN, others=twins)


ZONED = [
    KnownNode(node.id, node.address, node.name, zone)
    for node, zone in zip(NODES, ("a", "a", "a", "b", ""), strict=True)
]


def chosen_in_zones(written: object) -> list[str]:
    own, *others = ZONED
    choice = NodeChoice.parse(written)
    check(choice, own=own, others=others)
    assert NodeChoice.parse(str(choice)) == choice
    return choose(choice, IMAGE, own=own, others=others)


@pytest.mark.parametrize("written", ["zone=a", {"zone": "a"}])
def test_a_zone_is_all_its_nodes(written: object) -> None:
    assert sorted(chosen_in_zones(written)) == [node.id for node in ZONED[:3]]


@pytest.mark.parametrize("written", ["zone=each", {"zone": "each"}])
def test_each_zone_gets_one_node(written: object) -> None:
    """Nodes without a zone are taken for one zone."""
    found = chosen_in_zones(written)
    assert len(found) == 3
    assert set(found) > {ZONED[3].id, ZONED[4].id}


def test_a_number_of_nodes_is_spread_over_the_zones() -> None:
    assert {ZONED[3].id, ZONED[4].id} < set(chosen_in_zones(3))
    assert len(set(chosen_in_zones(5))) == 5


def test_a_zone_without_a_node_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(RequestInvalid) as raised:
        chosen_in_zones("zone=c")
    assert str(raised.value) == "nodes: no node is in the zone 'c'; known are a, b"


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"zone": "a", "count": 2}, "should have the key zone, and no other"),
        ({}, "should have the key zone"),
        ("zone=", "the name of the zone is missing"),
        ({"zone": "a b"}, "should be a zone"),
    ],
)
def test_a_malformed_zone_is_refused(written: object, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        NodeChoice.parse(written)
