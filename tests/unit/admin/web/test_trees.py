"""The rows and lines of a digest's tree."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.admin.web import trees
from spegel_py.admin.web.trees import TreeDrawing, TreeRow
from spegel_py.inflight.messages import Role, TreeNode, TreeSnapshot
from tests.browser import props

Parents = Sequence[int | None]


def drawn(parents: Parents) -> Sequence[TreeRow]:
    """The rows of nodes named by their numbers."""
    shape = props.shape([str(number) for number in range(len(parents))], parents, far=0)
    return trees.tree(props.sight("x", 100, Role.LEADER, shape), own="0", addresses={}).rows


@st.composite
def forests(draw: st.DrawFn) -> Parents:
    return [
        draw(st.none() | st.integers(0, number - 1)) if number else None
        for number in range(draw(st.integers(1, 32)))
    ]


def test_a_chain_is_one_column() -> None:
    """However long it is, with a line from each node to the next."""
    rows = drawn([None, *range(15)])
    assert [row.id for row in rows] == [str(number) for number in range(16)]
    assert {row.column for row in rows} == {0}
    assert [row.above for row in rows] == [None] + [0] * 15
    assert [row.below for row in rows] == [True] * 15 + [False]


def test_the_largest_branch_goes_on_below_the_node_that_feeds_it() -> None:
    """The others stand between them, one column further, beside its line."""
    rows = drawn([None, 0, 0, 1, 3])
    assert [(row.id, row.column, row.through, row.above) for row in rows] == [
        ("0", 0, (), None),
        ("2", 1, (0,), 0),
        ("1", 0, (), 0),
        ("3", 0, (), 0),
        ("4", 0, (), 0),
    ]


@given(forests())
def test_every_line_leads_from_a_node_to_the_one_that_takes_it_from_that(parents: Parents) -> None:
    """Followed down the page each line meets its node; there are as many columns as a tree of 32
    can need.
    """
    ends: dict[int, str] = {}  # whose line is in a column
    for row in drawn(parents):
        parent = parents[int(row.id)]
        if row.above is None:
            assert parent is None
            assert not row.through
        else:
            assert ends[row.above] == str(parent)
            assert row.above == row.column or row.above in row.through
        assert set(row.through) == {column for column in ends if column < row.column}
        assert row.column <= 5
        ends = {column: name for column, name in ends.items() if column < row.column}
        if row.below:
            ends[row.column] = row.id
    assert not ends
    assert sorted(int(row.id) for row in drawn(parents)) == list(range(len(parents)))


def shown(places: Sequence[TreeNode], *, total: int | None = 100, more: int = 0) -> TreeDrawing:
    sight = props.sight("x", total, Role.FOLLOWER, TreeSnapshot(tuple(places), more))
    return trees.tree(sight, own="me", addresses={"A": "10.0.0.1:5000"})


def test_nodes_have_their_addresses_and_this_one_is_marked() -> None:
    """Of one that is not connected here the end of its id is shown."""
    rows = shown(
        [
            TreeNode("A", None, Role.LEADER, 50),
            TreeNode("me", 0, Role.FOLLOWER, 25),
            TreeNode("12D3KooWxyzStranger", 1, None, 0),
        ]
    ).rows
    assert [row.name for row in rows] == ["10.0.0.1:5000", "this node", "…Stranger"]
    assert [row.source for row in rows] == [None, "10.0.0.1:5000", "this node"]
    assert [row.is_own for row in rows] == [False, True, False]
    assert [row.share for row in rows] == [0.5, 0.25, 0.0]


@pytest.mark.parametrize(("holder", "share"), [(Role.COMPLETE, 0.25), (Role.LEADER, None)])
def test_without_its_own_file_a_node_goes_by_who_has_all_of_it(
    holder: Role, share: float | None
) -> None:
    """Where nobody has, there is no bar."""
    rows = shown(
        [TreeNode("A", None, holder, 200), TreeNode("me", 0, Role.FOLLOWER, 50)], total=None
    ).rows
    assert rows[1].share == share


def test_it_is_said_when_this_node_is_not_among_those_shown() -> None:
    """It is one of those that are left out."""
    tree = shown([TreeNode("A", None, Role.LEADER, 50)], more=3)
    assert (tree.has_own, tree.more, tree.width) == (False, 3, trees.STEP)
