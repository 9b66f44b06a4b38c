"""The picture of who takes a digest from whom, as a steward draws it and as a node knows it alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.flight.messages import MAX_PLACES, Alone, Ask, Look, Note, Place, Role, Shape
from spegel_py.flight.part import Part
from spegel_py.flight.shape import draw, sight
from spegel_py.flight.steward import Steward
from spegel_py.flight.tree import Tree
from spegel_py.oci.digest import Digest
from spegel_py.store.growing import GrowingFile
from tests.unit.flight.test_tree import grown

DIGEST = Digest.of(b"layer")


def told(tree: Tree, **holders: Role) -> dict[str, tuple[Role | None, int]]:
    """Roots lead but for these, all others follow; offsets are zero."""
    return {
        node.id: (holders.get(node.id, Role.FOLLOW if node.parent else Role.LEAD), 0)
        for node in tree
    }


def part(role: Role, parent: str | None = None) -> Part:
    made = Part(
        digest=DIGEST, ingest=GrowingFile(fd=-1, total=10), role=role, renew=1.0, parent=parent
    )
    made.offset = 7
    return made


def test_a_book_shows_who_takes_it_from_whom() -> None:
    """The leader is first, then those below it with what each said last; one that waits has no role."""
    steward = Steward(own="S", now=0.0)
    steward.set_members(["A", "B"], 0.0)
    for name in "ABS":
        steward.answer(name, Ask(DIGEST, serves=name != "S"), 10.0)
    steward.answer("A", Note(DIGEST, Role.LEAD, 40), 10.1)
    steward.answer("B", Note(DIGEST, Role.FOLLOW, 30, "A"), 10.1)
    places = (
        Place("A", None, Role.LEAD, 40),
        Place("B", 0, Role.FOLLOW, 30),
        Place("S", 1, Role.FOLLOW, 0),
    )
    assert steward.answer("B", Look(DIGEST), 10.2) == Shape(places)


def test_to_look_changes_nothing() -> None:
    """No book is opened for it, and whose time is over is not shown any more."""
    steward = Steward(own="S", now=0.0)
    assert steward.answer("A", Look(DIGEST), 10.0) == Shape()
    assert not steward.books
    steward.answer("A", Ask(DIGEST), 10.0)
    assert steward.answer("A", Look(DIGEST), 1000.0) == Shape()


@given(st.integers(0, 200), st.integers(1, 16))
def test_of_many_those_nearest_to_the_source_are_drawn(count: int, depth: int) -> None:
    """Each below the one it takes it from, none further away than one that is left out; the rest is counted."""
    tree = grown(min(count, depth * 20), max_depth=depth)
    shape = draw(tree, told(tree))
    depths = {node.id: node.depth or 0 for node in tree}
    drawn = [depths[place.node] for place in shape.places]
    left_out = [
        depths[name] for name in depths if name not in {place.node for place in shape.places}
    ]
    assert len(drawn) == min(len(tree), MAX_PLACES)
    assert shape.more == len(left_out)
    assert drawn == sorted(drawn)
    assert not left_out or max(drawn) <= min(left_out)
    for place in shape.places:
        node = tree.get(place.node)
        assert node is not None
        above = None if place.parent is None else shape.places[place.parent].node
        assert above == (node.parent.id if node.parent else None)


def test_who_has_it_and_gives_it_to_nobody_comes_last() -> None:
    """After a crowd there are more of those than are shown; before them are those that wait for a source."""
    tree = grown(2)
    for number in range(MAX_PLACES):
        tree.make_source(tree.add(f"holder{number}"))
    tree.add("waiting")
    holders = dict.fromkeys([node.id for node in tree if node.id.startswith("holder")], Role.HOLD)
    shape = draw(tree, told(tree, **holders))
    assert [place.node for place in shape.places[:4]] == ["0", "1", "2", "waiting"]
    assert (len(shape.places), shape.more) == (MAX_PLACES, 4)


def test_what_the_steward_tells_is_shown() -> None:
    """With the length that this node knows of its own file."""
    shape = Shape((Place("A", None, Role.LEAD, 5), Place("me", 0, Role.FOLLOW, 3)))
    seen = sight(part(Role.FOLLOW, "A"), "me", shape)
    assert (seen.shape, seen.is_told, seen.total, seen.role) == (shape, True, 10, Role.FOLLOW)


def test_where_the_steward_does_not_tell_a_node_shows_what_it_knows() -> None:
    """Itself, and whom it takes the content from, of whom it knows no more; so too if the steward knows nobody."""
    for reply in (None, Shape(), Alone()):
        seen = sight(part(Role.FOLLOW, "A"), "me", reply)
        assert seen.shape == Shape((Place("A", None, None, 0), Place("me", 0, Role.FOLLOW, 7)))
        assert not seen.is_told
    assert sight(part(Role.LEAD), "me", None).shape == Shape((Place("me", None, Role.LEAD, 7),))
