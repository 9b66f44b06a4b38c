"""The pull tree of each digest in flight, as rows of a list with a picture at their side. Pure.

Most trees are chains, which need a single column. Where a tree branches, the largest branch stays
in the column of its parent, below the smaller branches, which use the next column. So a tree needs
few columns, also on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spegel_py.inflight.messages import Role
from spegel_py.inflight.tree_view import TreeView

STEP = 18
"""Pixels between two columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """One node of a tree, with the lines of its row.

    Args:
        share: the part of the content that the node has, None if the size is unknown.
        column: the column of the node.
        through: the columns of lines that pass through the row.
        above: the column of the parent.
        below: True if the node has children.
    """

    id: str
    name: str
    role: str | None
    is_own: bool
    source: str | None
    offset: int
    share: float | None
    column: int
    through: tuple[int, ...]
    above: int | None
    below: bool

    @property
    def x(self) -> int:
        return middle(self.column)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDrawing:
    """The tree of one digest of `total` bytes, None if unknown.

    `more` nodes are left out. `is_told` is True if the coordinator sent the tree.
    """

    digest: str
    total: int | None
    role: str
    rows: tuple[TreeRow, ...]
    more: int
    is_told: bool

    @property
    def width(self) -> int:
        """The width of the picture in pixels."""
        return STEP * (1 + max(row.column for row in self.rows))

    @property
    def has_own(self) -> bool:
        """Return True if this node is among the rows."""
        return any(row.is_own for row in self.rows)


def middle(column: int) -> int:
    """Return the middle of a column in pixels."""
    return STEP * column + STEP // 2


def tree(view: TreeView, *, own: str, addresses: Mapping[str, str]) -> TreeDrawing:
    """Return the tree of a digest; `addresses` are the addresses of peers by their ids."""
    return TreeDrawing(
        digest=str(view.digest),
        total=view.total,
        role=view.role.value,
        rows=tuple(_rows(view, own, addresses)),
        more=view.snapshot.more,
        is_told=view.is_told,
    )


def _rows(view: TreeView, own: str, addresses: Mapping[str, str]) -> Iterator[TreeRow]:
    places = view.snapshot.places
    names = [
        "this node" if place.node == own else addresses.get(place.node) or _short(place.node)
        for place in places
    ]
    whole = view.total or max(
        (place.offset for place in places if place.role is Role.COMPLETE), default=0
    )
    for line in _lines([place.parent for place in places]):
        place = places[line.number]
        yield TreeRow(
            id=place.node,
            name=names[line.number],
            role=None if place.role is None else place.role.value,
            is_own=place.node == own,
            source=None if place.parent is None else names[place.parent],
            offset=place.offset,
            share=min(1.0, place.offset / whole) if whole else None,
            column=line.column,
            through=line.through,
            above=line.above,
            below=line.below,
        )


def _short(node: str) -> str:
    """Return the end of a peer's id; the beginning is the same for all nodes."""
    return f"…{node[-8:]}"


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    column: int
    through: tuple[int, ...]
    above: int | None
    below: bool


def _lines(parents: Sequence[int | None]) -> Iterator[_Line]:
    """Yield the lines of all nodes from top to bottom; `parents` come before their children."""
    below: list[list[int]] = [[] for _ in parents]
    sizes = [1] * len(parents)
    for number in reversed(range(len(parents))):
        if (parent := parents[number]) is not None:
            below[parent].insert(0, number)
            sizes[parent] += sizes[number]

    def walk(
        number: int, column: int, through: tuple[int, ...], above: int | None
    ) -> Iterator[_Line]:
        yield _Line(number, column, through, above, bool(below[number]))
        branches = sorted(below[number], key=sizes.__getitem__)
        for branch in branches[:-1]:
            yield from walk(branch, column + 1, (*through, column), column)
        for largest in branches[-1:]:
            yield from walk(largest, column, through, column)

    for number, parent in enumerate(parents):
        if parent is None:
            yield from walk(number, 0, (), None)
