"""The coordinator's part of a node: one PullTree for each digest that the node coordinates. Pure.

Its state is neither on a disk nor told to other coordinators. Participants repeat their heartbeats
to the node that is the coordinator at that time. A tree made after a change of the coordinator
sends nobody upstream until those heartbeats have come.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from spegel_py.inflight.messages import (
    CoordinatorRequest,
    CoordinatorResponse,
    Heartbeat,
    HeartbeatAck,
    ParentRequest,
    Role,
    TreeQuery,
    TreeSnapshot,
)
from spegel_py.inflight.pull_tree import PullTree
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.inflight.rules import InFlightRules
from spegel_py.oci.digest import Digest
from spegel_py.tools.bounded import BoundedDict

MAX_TREES = 4096
"""Trees kept, the most recently used ones: enough for a few dozen images pulled at once."""

SWEEP_EVERY = 256
"""Requests between two searches for empty trees."""


class Coordinator:
    """The trees of the node `own`; members are peer ids, times are monotonic seconds."""

    def __init__(self, *, own: str, now: float, rules: InFlightRules | None = None) -> None:
        self._own = own
        self._rules = rules or InFlightRules()
        self._trees: BoundedDict[Digest, PullTree] = BoundedDict(limit=MAX_TREES)
        self._members: set[str] = set()
        self._changed: dict[str, float] = {own: now}  # members that joined or left lately → when
        self._requests = 0

    def __repr__(self) -> str:
        return f"<Coordinator of {len(self._trees)} digests among {len(self._members) + 1} nodes>"

    @property
    def trees(self) -> dict[Digest, PullTree]:
        """The trees, for people to look at."""
        return dict(self._trees)

    def set_members(self, members: Collection[str], now: float) -> None:
        """Record the other nodes that take part; nodes that left are removed from all trees."""
        left, joined = self._members - set(members), set(members) - self._members
        self._members = set(members)
        self._changed.update(dict.fromkeys(left | joined, now))
        for name in left:
            for tree in self._trees.values():
                tree.remove(name)

    def answer(self, name: str, request: CoordinatorRequest, now: float) -> CoordinatorResponse:
        """Answer a request of the node `name`, which may be too new to be a member yet."""
        self._sweep(now)
        match request:
            case ParentRequest(digest):
                return self._tree(digest, now).assign(name, request, now)
            case Heartbeat(digest, Role.LEFT) if digest not in self._trees:
                return HeartbeatAck(self._rules.waiting_ttl)
            case Heartbeat(digest):
                return HeartbeatAck(self._tree(digest, now).record_heartbeat(name, request, now))
            case TreeQuery(digest):
                tree = self._trees.get(digest)
                return TreeSnapshot() if tree is None else tree.snapshot(now)

    def _tree(self, digest: Digest, now: float) -> PullTree:
        tree = self._trees.get(digest)
        if tree is None:
            tree = PullTree(rules=self._rules, settled=self._settled_at(digest, now))
            self._trees[digest] = tree
        self._trees.move_to_end(digest)
        return tree

    def _settled_at(self, digest: Digest, now: float) -> float:
        """Return the time from which this node knows what is in flight.

        Case 1: this node is no coordinator of the digest but a stand-in, and has to wait longer.
        Case 2: it has been the coordinator for longer than the grace time, and knows at once.
        Case 3: it became the coordinator just now.
        """
        self._changed = {
            name: at for name, at in self._changed.items() if at + self._rules.takeover_grace > now
        }
        everybody = self._members | {self._own}
        if ranked_nodes(digest, everybody, 1) != [self._own]:
            return now + self._rules.stand_in(len(everybody))
        before = everybody.symmetric_difference(self._changed)
        if not self._members or ranked_nodes(digest, before, 1) == [self._own]:
            return -math.inf
        return now + self._rules.takeover_grace

    def _sweep(self, now: float) -> None:
        self._requests += 1
        if self._requests % SWEEP_EVERY:
            return
        for digest, tree in list(self._trees.items()):
            tree.expire(now)
            if not len(tree):
                del self._trees[digest]
