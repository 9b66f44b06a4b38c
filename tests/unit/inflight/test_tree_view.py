"""The picture of a digest's tree, as a coordinator draws it and as a node knows it alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight.coordinator import Coordinator
from spegel_py.inflight.forest import Forest
from spegel_py.inflight.messages import (
    MAX_TREE_NODES,
    FetchUncoordinated,
    Heartbeat,
    ParentRequest,
    Role,
    TreeNode,
    TreeQuery,
    TreeSnapshot,
)
from spegel_py.inflight.participation import Participation
from spegel_py.inflight.tree_view import snapshot, tree_view
from spegel_py.oci.digest import Digest
from spegel_py.store.growing import GrowingFile
from tests.unit.inflight.test_forest import grown

DIGEST = Digest.of(b"layer")


def told(tree: Forest, **holders: Role) -> dict[str, tuple[Role | None, int]]:
    """Roots lead unless named here, and all other nodes follow; offsets are zero."""
    return {
        node.id: (holders.get(node.id, Role.FOLLOWER if node.parent else Role.LEADER), 0)
        for node in tree
    }


def part(role: Role, parent: str | None = None) -> Participation:
    made = Participation(
        digest=DIGEST, ingest=GrowingFile(fd=-1, total=10), role=role, interval=1.0, parent=parent
    )
    made.offset = 7
    return made


def test_a_tree_shows_who_takes_it_from_whom() -> None:
    """The leader is first, then its subtree with each node's last report.

    A waiting node has no role.
    """
    coordinator = Coordinator(own="S", now=0.0)
    coordinator.set_members(["A", "B"], 0.0)
    for name in "ABS":
        coordinator.answer(name, ParentRequest(DIGEST, serves=name != "S"), 10.0)
    coordinator.answer("A", Heartbeat(DIGEST, Role.LEADER, 40), 10.1)
    coordinator.answer("B", Heartbeat(DIGEST, Role.FOLLOWER, 30, "A"), 10.1)
    places = (
        TreeNode("A", None, Role.LEADER, 40),
        TreeNode("B", 0, Role.FOLLOWER, 30),
        TreeNode("S", 1, Role.FOLLOWER, 0),
    )
    assert coordinator.answer("B", TreeQuery(DIGEST), 10.2) == TreeSnapshot(places)


def test_to_look_changes_nothing() -> None:
    """A query makes no tree, and a node whose lease is over is not shown."""
    coordinator = Coordinator(own="S", now=0.0)
    assert coordinator.answer("A", TreeQuery(DIGEST), 10.0) == TreeSnapshot()
    assert not coordinator.trees
    coordinator.answer("A", ParentRequest(DIGEST), 10.0)
    assert coordinator.answer("A", TreeQuery(DIGEST), 1000.0) == TreeSnapshot()


@given(st.integers(0, 200), st.integers(1, 16))
def test_of_many_those_nearest_to_the_source_are_drawn(count: int, depth: int) -> None:
    """Each node is drawn below its parent, none further away than an omitted one.

    The rest is counted.
    """
    tree = grown(min(count, depth * 20), max_depth=depth)
    shape = snapshot(tree, told(tree))
    depths = {node.id: node.depth or 0 for node in tree}
    drawn = [depths[place.node] for place in shape.places]
    left_out = [
        depths[name] for name in depths if name not in {place.node for place in shape.places}
    ]
    assert len(drawn) == min(len(tree), MAX_TREE_NODES)
    assert shape.more == len(left_out)
    assert drawn == sorted(drawn)
    assert not left_out or max(drawn) <= min(left_out)
    for place in shape.places:
        node = tree.get(place.node)
        assert node is not None
        above = None if place.parent is None else shape.places[place.parent].node
        assert above == (node.parent.id if node.parent else None)


def test_who_has_it_and_gives_it_to_nobody_comes_last() -> None:
    """After a crowd there are more idle holders than are shown. Waiting nodes come before them."""
    tree = grown(2)
    for number in range(MAX_TREE_NODES):
        tree.make_source(tree.add(f"holder{number}"))
    tree.add("waiting")
    holders = dict.fromkeys(
        [node.id for node in tree if node.id.startswith("holder")], Role.COMPLETE
    )
    shape = snapshot(tree, told(tree, **holders))
    assert [place.node for place in shape.places[:4]] == ["0", "1", "2", "waiting"]
    assert (len(shape.places), shape.more) == (MAX_TREE_NODES, 4)


def test_what_the_coordinator_tells_is_shown() -> None:
    """The view has the length that this node knows from its own file."""
    shape = TreeSnapshot((TreeNode("A", None, Role.LEADER, 5), TreeNode("me", 0, Role.FOLLOWER, 3)))
    seen = tree_view(part(Role.FOLLOWER, "A"), "me", shape)
    assert (seen.snapshot, seen.is_told, seen.total, seen.role) == (shape, True, 10, Role.FOLLOWER)


def test_where_the_coordinator_does_not_tell_a_node_shows_what_it_knows() -> None:
    """It shows itself and its parent, of which it knows no more.

    The same holds if the coordinator knows no node.
    """
    for reply in (None, TreeSnapshot(), FetchUncoordinated()):
        seen = tree_view(part(Role.FOLLOWER, "A"), "me", reply)
        assert seen.snapshot == TreeSnapshot(
            (TreeNode("A", None, None, 0), TreeNode("me", 0, Role.FOLLOWER, 7))
        )
        assert not seen.is_told
    assert tree_view(part(Role.LEADER), "me", None).snapshot == TreeSnapshot(
        (TreeNode("me", None, Role.LEADER, 7),)
    )
