"""The picture of a digest's tree, cut to the size of one answer, or a node's own view. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from spegel_py.inflight.forest import Forest, ForestNode
from spegel_py.inflight.messages import (
    MAX_TREE_NODES,
    CoordinatorResponse,
    Role,
    TreeNode,
    TreeSnapshot,
)
from spegel_py.inflight.participation import Participation
from spegel_py.oci.digest import Digest

NodeStates = Mapping[str, tuple[Role | None, int]]
"""Each node's role, and the bytes that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeView:
    """The tree of a digest in which this node takes part.

    Args:
        digest: the content.
        total: its length in bytes, None while that is unknown.
        role: this node's own role.
        snapshot: the tree.
        is_told: True if the coordinator sent the tree; False if it is this node's own knowledge.
    """

    digest: Digest
    total: int | None
    role: Role
    snapshot: TreeSnapshot
    is_told: bool


def snapshot(forest: Forest, states: NodeStates) -> TreeSnapshot:
    """Return the nodes of a forest that are nearest to a source, MAX_TREE_NODES at most."""
    nodes = list(islice(_by_level(forest, states), MAX_TREE_NODES))
    numbers = {node.id: number for number, node in enumerate(nodes)}
    places = tuple(
        TreeNode(node.id, numbers[node.parent.id] if node.parent else None, *states[node.id])
        for node in nodes
    )
    return TreeSnapshot(places, len(forest) - len(places))


def _by_level(forest: Forest, states: NodeStates) -> Iterator[ForestNode]:
    """Yield trees with a source, then waiting trees, then idle holders; parents come first."""

    def rank(root: ForestNode) -> int:
        if not root.is_source:
            return 1
        return 0 if root.children or states[root.id][0] is Role.LEADER else 2

    roots = [node for node in forest if node.parent is None]
    for wanted in range(3):
        level: Iterable[ForestNode] = [root for root in roots if rank(root) == wanted]
        while level:
            yield from level
            level = [child for node in level for child in node.children.values()]


def tree_view(
    participation: Participation, own: str, answer: CoordinatorResponse | None
) -> TreeView:
    """Return the view of the node `own`, from its coordinator's answer or else its own state."""
    is_told = isinstance(answer, TreeSnapshot) and bool(answer.places)
    if not isinstance(answer, TreeSnapshot) or not answer.places:
        answer = _own_snapshot(participation, own)
    return TreeView(
        digest=participation.digest,
        total=participation.total,
        role=participation.role,
        snapshot=answer,
        is_told=is_told,
    )


def _own_snapshot(participation: Participation, own: str) -> TreeSnapshot:
    """Return the tree as the node knows it without its coordinator: itself below its parent."""
    role, parent, offset = participation.role, participation.parent, participation.offset
    if role is not Role.FOLLOWER or parent is None:
        return TreeSnapshot((TreeNode(own, None, role, offset),))
    return TreeSnapshot((TreeNode(parent, None, None, 0), TreeNode(own, 0, role, offset)))
