"""The picture of a digest's tree, as much of it as one answer holds, and what of it a node knows by itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from spegel_py.flight.messages import MAX_PLACES, Place, Reply, Role, Shape
from spegel_py.flight.part import Part
from spegel_py.flight.tree import Node, Tree
from spegel_py.oci.digest import Digest

Told = Mapping[str, tuple[Role | None, int]]
"""What nodes do, and how many bytes they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A digest that this node takes part in: its length in bytes, None where that is not known yet, what this node does
    with it, and who takes it from whom. `is_told` says that the steward told the shape; else it is what this node knows
    by itself."""

    digest: Digest
    total: int | None
    role: Role
    shape: Shape
    is_told: bool


def draw(tree: Tree, told: Told) -> Shape:
    """Return the shape of a tree; of one that is too large those places that are nearest to where it comes from."""
    nodes = list(islice(_from_the_top(tree, told), MAX_PLACES))
    numbers = {node.id: number for number, node in enumerate(nodes)}
    places = tuple(
        Place(node.id, numbers[node.parent.id] if node.parent else None, *told[node.id])
        for node in nodes
    )
    return Shape(places, len(tree) - len(places))


def _from_the_top(tree: Tree, told: Told) -> Iterator[Node]:
    """Yield nodes with each after the one above it: those that get it first, those that wait next, and last who has it
    and gives it to nobody."""

    def rank(top: Node) -> int:
        if not top.is_source:
            return 1
        return 0 if top.children or told[top.id][0] is Role.LEAD else 2

    tops = [node for node in tree if node.parent is None]
    for wanted in range(3):
        level: Iterable[Node] = [top for top in tops if rank(top) == wanted]
        while level:
            yield from level
            level = [child for node in level for child in node.children.values()]


def sight(part: Part, own: str, reply: Reply | None) -> Sight:
    """Return what is to be seen of a part of the node `own`, whose steward gave this reply."""
    is_told = isinstance(reply, Shape) and bool(reply.places)
    shape = reply if isinstance(reply, Shape) and is_told else _alone(part, own)
    return Sight(digest=part.digest, total=part.total, role=part.role, shape=shape, is_told=is_told)


def _alone(part: Part, own: str) -> Shape:
    """Return the shape of what a node knows without its steward: its own place, and whom it takes it from."""
    if part.role is not Role.FOLLOW or part.parent is None:
        return Shape((Place(own, None, part.role, part.offset),))
    return Shape((Place(part.parent, None, None, 0), Place(own, 0, part.role, part.offset)))
