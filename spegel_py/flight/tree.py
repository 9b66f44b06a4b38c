"""Who takes one digest from whom: a forest whose roots have the content or fetch it. Pure, and without time.

A node that waits for a source is in it too, with those below it: when it finds one, all of them are fed again. Places
to attach at are kept sorted by how many a node feeds already, then by its depth, so that choosing one costs no walk
over the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

MAX_DEPTH = 16
"""Steps from where the content comes from to the last node: each adds some milliseconds, and one more node whose death
interrupts those below it. Chains are as quick as the slowest link, so a long one costs less than a node that feeds
two: then each gets half (measured with eight nodes: a chain 6 s, two each 10 s, three each 14 s)."""


@dataclass(slots=True, eq=False)
class Node:
    """One node's place; `depth` is None while its chain leads to no source."""

    id: str
    serves: bool = True
    is_source: bool = False
    is_blocked: bool = False
    parent: Node | None = field(default=None, repr=False)
    children: dict[str, Node] = field(default_factory=dict, repr=False)
    depth: int | None = None


class Tree:
    """The nodes of one digest, by id."""

    def __init__(self, *, max_depth: int = MAX_DEPTH) -> None:
        self._max_depth = max_depth
        self._nodes: dict[str, Node] = {}
        self._shelves: dict[
            tuple[int, int], dict[str, Node]
        ] = {}  # (children, depth) → who may feed one more
        self._shelf_of: dict[str, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"<Tree of {len(self._nodes)} nodes>"

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def add(self, name: str, *, serves: bool = True) -> Node:
        """Return the node, a new one without a place if it was not known."""
        node = self._nodes.setdefault(name, Node(name))
        node.serves = serves
        self._shelve(node)
        return node

    def make_source(self, node: Node) -> None:
        """Note that the node has the content or fetches it; it follows nobody then."""
        self._part(node)
        node.is_source = True
        self._settle(node)

    def detach(self, node: Node) -> None:
        """Note that the node has no source; those below it stay there."""
        self._part(node)
        node.is_source = False
        self._settle(node)

    def attach(self, node: Node, parent: Node) -> bool:
        """Put a node below another; False, and it has no place, if that is below itself."""
        self.detach(node)
        if self.is_below(parent, node):
            return False
        node.parent = parent
        parent.children[node.id] = node
        self._shelve(parent)
        self._settle(node)
        return True

    def block(self, node: Node, *, on: bool) -> None:
        """Let nobody else be attached to the node, or let them again."""
        node.is_blocked = on
        self._shelve(node)

    def remove(self, node: Node) -> None:
        """Forget a node; those that it fed have no source then."""
        self._part(node)
        for child in list(node.children.values()):
            self.detach(child)
        self._unshelve(node)
        del self._nodes[node.id]

    def pick(self, node: Node, *, without: Collection[str] = ()) -> Node | None:
        """Return where a node is best attached: at a source's chain, not below itself, not too deep.

        Who feeds fewest goes first, of those the one with the least depth; `without` are not wanted.
        """
        most = self._max_depth - 1 - self._height(node)
        for key in sorted(self._shelves):
            if key[1] > most:
                continue
            for candidate in self._shelves[key].values():
                if candidate.id not in without and not self.is_below(candidate, node):
                    return candidate
        return None

    def has_room(self, node: Node) -> bool:
        """Say whether somebody may be attached to a node."""
        return (
            node.depth is not None
            and node.depth < self._max_depth
            and node.serves
            and not node.is_blocked
        )

    def is_below(self, node: Node, top: Node) -> bool:
        """Say whether a node is another one, or is fed by it by way of others or not."""
        at: Node | None = node
        while at is not None:
            if at is top:
                return True
            at = at.parent
        return False

    def top(self, node: Node) -> Node:
        """Return the node from which a chain starts that leads to this one."""
        while node.parent is not None:
            node = node.parent
        return node

    def _height(self, node: Node) -> int:
        """Return how many steps lie below a node."""
        height, level = -1, [node]
        while level:
            height, level = (
                height + 1,
                [child for each in level for child in each.children.values()],
            )
        return height

    def _part(self, node: Node) -> None:
        if node.parent is not None:
            del node.parent.children[node.id]
            self._shelve(node.parent)
            node.parent = None

    def _settle(self, top: Node) -> None:
        """Work out the depths of a node and of all below it."""
        waiting = [top]
        while waiting:
            node = waiting.pop()
            above = node.parent.depth if node.parent is not None else None
            depth = 0 if node.is_source else None if above is None else above + 1
            if node is not top and depth == node.depth:
                continue
            node.depth = depth
            self._shelve(node)
            waiting.extend(node.children.values())

    def _shelve(self, node: Node) -> None:
        """Put a node where `pick` finds it, if anybody may be attached to it."""
        self._unshelve(node)
        if node.depth is None or node.is_blocked or not node.serves:
            return
        key = (len(node.children), node.depth)
        self._shelf_of[node.id] = key
        self._shelves.setdefault(key, {})[node.id] = node

    def _unshelve(self, node: Node) -> None:
        if (key := self._shelf_of.pop(node.id, None)) is not None:
            shelf = self._shelves[key]
            del shelf[node.id]
            if not shelf:
                del self._shelves[key]
