"""The forest of parents and followers of a digest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight.forest import Forest, ForestNode


def grown(count: int, *, max_depth: int = 16) -> Forest:
    """Return a tree of the source `0` and `count` nodes, each attached at its best parent."""
    tree = Forest(max_depth=max_depth)
    tree.make_source(tree.add("0"))
    for number in range(1, count + 1):
        node = tree.add(str(number))
        best = tree.best_parent(node)
        assert best is not None
        assert tree.attach(node, best)
    return tree


def depths(tree: Forest) -> dict[str, int | None]:
    return {node.id: node.depth for node in tree}


def test_the_first_nodes_make_a_chain() -> None:
    """Each new node is attached to the node that has no child yet."""
    assert depths(grown(5)) == {str(number): number for number in range(6)}


def test_a_chain_that_is_long_enough_branches_near_its_source() -> None:
    """At the greatest depth the source gets a second child, and so on, from the top down."""
    tree = grown(8, max_depth=3)
    assert depths(tree) == {"0": 0, "1": 1, "2": 2, "3": 3, "4": 1, "5": 2, "6": 3, "7": 2, "8": 3}


def test_a_thousand_nodes_take_from_one_with_a_fan_out_of_two() -> None:
    """No node has more than two children, and none is deeper than the bound."""
    tree = grown(1000)
    assert max(len(node.children) for node in tree) == 2
    assert all(node.depth is not None and node.depth <= 16 for node in tree)


def test_whoever_has_it_all_is_as_good_as_the_source() -> None:
    """A node that becomes a source is chosen before a chain's end."""
    tree = grown(3)
    holder = tree.add("holder")
    tree.make_source(holder)
    assert tree.best_parent(tree.add("new")) is holder


def test_those_below_move_with_a_node() -> None:
    """When a node gets another parent, the depths below it change.

    Without a source the subtree offers no parent.
    """
    tree = grown(4)
    node, holder = tree.get("2"), tree.add("holder")
    assert node is not None
    tree.detach(node)
    assert depths(tree) == {"0": 0, "1": 1, "2": None, "3": None, "4": None, "holder": None}
    assert tree.best_parent(tree.add("new"), without=["0", "1"]) is None
    tree.make_source(holder)
    assert tree.attach(node, holder)
    assert depths(tree) == {"0": 0, "1": 1, "2": 1, "3": 2, "4": 3, "holder": 0, "new": None}


def test_a_node_never_goes_below_itself() -> None:
    """A node in its own subtree is no parent for it."""
    tree = grown(3)
    first, last = tree.get("1"), tree.get("3")
    assert first is not None
    assert last is not None
    assert not tree.attach(first, last)
    assert depths(tree) == {"0": 0, "1": None, "2": None, "3": None}


def test_what_is_below_counts_for_the_depth() -> None:
    """A node with a chain below itself is attached where the chain's end is not too deep."""
    tree = grown(3, max_depth=4)
    first, other = tree.get("1"), tree.add("other")
    assert first is not None
    tree.make_source(other)
    for name in ("a", "b"):
        node = tree.add(name)
        tree.attach(node, tree.best_parent(node, without=["0", "1", "2", "3"]) or other)
    best = tree.best_parent(first)
    assert best is not None
    assert (
        best.depth == 0
    )  # below it there are two more: only at a source or one step away is there room


def test_who_is_blocked_or_does_not_serve_feeds_nobody() -> None:
    """A blocked node is passed over while it is blocked.

    A node that does not serve is never a parent.
    """
    tree = Forest()
    source, new = tree.add("source"), tree.add("new")
    tree.make_source(source)
    tree.block(source, on=True)
    assert tree.best_parent(new) is None
    tree.block(source, on=False)
    assert tree.best_parent(new) is source
    leaf = tree.add("leaf", serves=False)
    tree.attach(leaf, source)
    assert tree.best_parent(new) is source


NAMES = st.sampled_from("abcdefg")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["attach", "pick", "source", "detach", "remove", "block"]), NAMES, NAMES
    ),
    max_size=60,
)


def take(tree: Forest, step: str, node: ForestNode, other: str) -> None:
    match step:
        case "attach":
            tree.attach(node, tree.add(other))
        case "pick":
            tree.detach(node)
            if (best := tree.best_parent(node, without=[other])) is not None:
                assert best.id != other
                assert tree.attach(node, best)
                assert node.depth is not None
        case "source":
            tree.make_source(node)
        case "detach":
            tree.detach(node)
        case "remove":
            tree.remove(node)
        case "block":
            tree.block(node, on=not node.is_blocked)


@given(STEPS)
def test_whatever_happens_the_depths_are_true(steps: list[tuple[str, str, str]]) -> None:
    """There is never a ring, and each depth is the number of steps to a source.

    `best_parent` leads to a source.
    """
    tree = Forest(max_depth=4)
    for step, name, other in steps:
        node = tree.add(name)
        take(tree, step, node, other)
        for each in tree:
            seen = {each.id}
            top, count = each, 0
            while top.parent is not None:
                top, count = top.parent, count + 1
                assert top.id not in seen
                seen.add(top.id)
            assert each.depth == (count if top.is_source else None)
