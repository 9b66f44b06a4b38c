"""Which node gets one digest from which other node: a forest with the sources as its roots. Pure.

A source has the complete content or fetches it. A node that waits for a parent stays in the forest
with its subtree: when it finds a parent, the whole subtree is fed again. There is no time here.

The nodes that accept one more child are kept in buckets by their number of children and their
depth, so that choosing a parent costs no walk over the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

MAX_DEPTH = 16
"""Steps from a source to the last node.

Each step adds some milliseconds, and one more node whose death interrupts the nodes below it. A
chain is as fast as its slowest link, so a long chain costs less than a node that feeds two, each
with half its rate. Measured with eight nodes: a chain 6 s, two children each 10 s, three 14 s.
"""


@dataclass(slots=True, eq=False)
class ForestNode:
    """One node of the forest; `depth` is None while its root is no source."""

    id: str
    serves: bool = True
    is_source: bool = False
    is_blocked: bool = False
    parent: ForestNode | None = field(default=None, repr=False)
    children: dict[str, ForestNode] = field(default_factory=dict, repr=False)
    depth: int | None = None


class Forest:
    """The nodes of one digest, by id."""

    def __init__(self, *, max_depth: int = MAX_DEPTH) -> None:
        self._max_depth = max_depth
        self._nodes: dict[str, ForestNode] = {}
        self._buckets: dict[tuple[int, int], dict[str, ForestNode]] = {}
        """(number of children, depth) → nodes that accept one more child."""
        self._bucket_of: dict[str, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"<Forest of {len(self._nodes)} nodes>"

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[ForestNode]:
        return iter(self._nodes.values())

    def get(self, name: str) -> ForestNode | None:
        """Return the node with this id, or None."""
        return self._nodes.get(name)

    def add(self, name: str, *, serves: bool = True) -> ForestNode:
        """Return the node with this id; a new node starts without a parent."""
        node = self._nodes.setdefault(name, ForestNode(name))
        node.serves = serves
        self._update_bucket(node)
        return node

    def make_source(self, node: ForestNode) -> None:
        """Make the node a root that has the content or fetches it."""
        self._unlink(node)
        node.is_source = True
        self._update_depths(node)

    def detach(self, node: ForestNode) -> None:
        """Leave the node without a parent; its subtree stays below it."""
        self._unlink(node)
        node.is_source = False
        self._update_depths(node)

    def attach(self, node: ForestNode, parent: ForestNode) -> bool:
        """Put the node below `parent`.

        Return False, and leave the node without a parent, if `parent` is in the node's own subtree.
        """
        self.detach(node)
        if self.is_in_subtree(parent, node):
            return False
        node.parent = parent
        parent.children[node.id] = node
        self._update_bucket(parent)
        self._update_depths(node)
        return True

    def block(self, node: ForestNode, *, on: bool) -> None:
        """Offer the node as a parent no more, or offer it again."""
        node.is_blocked = on
        self._update_bucket(node)

    def remove(self, node: ForestNode) -> None:
        """Forget the node; its children have no parent then."""
        self._unlink(node)
        for child in list(node.children.values()):
            self.detach(child)
        self._remove_from_bucket(node)
        del self._nodes[node.id]

    def best_parent(self, node: ForestNode, *, without: Collection[str] = ()) -> ForestNode | None:
        """Return the best parent for the node, or None; ids in `without` are excluded.

        A parent's root is a source, it is not in the node's subtree, and the subtree stays within
        the greatest depth below it. The parent with the fewest children is best; at equal numbers
        the least depth decides.
        """
        most = self._max_depth - 1 - self._height(node)
        for key in sorted(self._buckets):
            if key[1] > most:
                continue
            for candidate in self._buckets[key].values():
                if candidate.id not in without and not self.is_in_subtree(candidate, node):
                    return candidate
        return None

    def has_room(self, node: ForestNode) -> bool:
        """Return True if the node accepts one more child."""
        return (
            node.depth is not None
            and node.depth < self._max_depth
            and node.serves
            and not node.is_blocked
        )

    def is_in_subtree(self, node: ForestNode, top: ForestNode) -> bool:
        """Return True if `node` is `top` or lies below it."""
        at: ForestNode | None = node
        while at is not None:
            if at is top:
                return True
            at = at.parent
        return False

    def root(self, node: ForestNode) -> ForestNode:
        """Return the root of the node's chain."""
        while node.parent is not None:
            node = node.parent
        return node

    def _height(self, node: ForestNode) -> int:
        """Return the number of levels below the node."""
        height, level = -1, [node]
        while level:
            height += 1
            level = [child for each in level for child in each.children.values()]
        return height

    def _unlink(self, node: ForestNode) -> None:
        if node.parent is not None:
            del node.parent.children[node.id]
            self._update_bucket(node.parent)
            node.parent = None

    def _update_depths(self, top: ForestNode) -> None:
        """Compute the depths of the node and of its subtree."""
        pending = [top]
        while pending:
            node = pending.pop()
            above = node.parent.depth if node.parent is not None else None
            depth = 0 if node.is_source else None if above is None else above + 1
            if node is not top and depth == node.depth:
                continue  # the subtree below is right already
            node.depth = depth
            self._update_bucket(node)
            pending.extend(node.children.values())

    def _update_bucket(self, node: ForestNode) -> None:
        """Put the node where `best_parent` finds it, if it accepts children."""
        self._remove_from_bucket(node)
        if node.depth is None or node.is_blocked or not node.serves:
            return
        key = (len(node.children), node.depth)
        self._bucket_of[node.id] = key
        self._buckets.setdefault(key, {})[node.id] = node

    def _remove_from_bucket(self, node: ForestNode) -> None:
        if (key := self._bucket_of.pop(node.id, None)) is not None:
            bucket = self._buckets[key]
            del bucket[node.id]
            if not bucket:
                del self._buckets[key]
