"""The coordinator's decisions for one digest: which nodes fetch upstream, each follower's parent.

Times are monotonic seconds, passed in. A node is believed about itself. A complaint about another
node has two effects: the complaining node is kept away from the accused one, and the accused one
must answer for itself. Its next heartbeat, or its silence, decides. So a broken link between two
nodes costs no third node anything. Pure.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from spegel_py.inflight.forest import MAX_DEPTH, Forest, ForestNode
from spegel_py.inflight.messages import (
    Assignment,
    FetchUncoordinated,
    FetchUpstream,
    FollowParent,
    Heartbeat,
    ParentFault,
    ParentRequest,
    RetryLater,
    Role,
    TreeSnapshot,
)
from spegel_py.inflight.rules import InFlightRules
from spegel_py.inflight.tree_view import snapshot
from spegel_py.tools.backoff import doubled


@dataclass(slots=True)
class _Participant:
    """The coordinator's knowledge of one node.

    `role` is None while the node has no parent; a node that needs none has another role.
    """

    node: ForestNode
    heard: float  # time of the last message
    role: Role | None = None
    offset: int = 0
    interval: float = 0.0  # seconds within which the next heartbeat is due
    advanced: float = -math.inf  # time of the last new byte
    accused: float = math.inf  # time of the first complaint that it has not answered yet
    busy_until: float = -math.inf
    is_waiting: bool = False  # it was told to ask again
    has_yielded: bool = False  # after the loss of its parent, nodes with more bytes went first
    avoids: dict[str, float] = field(default_factory=dict)  # parent id → until when
    next_check: float = math.inf  # when the end of its lease is checked


class PullTree:
    """Answers parent requests for one digest; sends nobody upstream before the time `settled`."""

    def __init__(
        self, *, rules: InFlightRules, settled: float = -math.inf, max_depth: int = MAX_DEPTH
    ) -> None:
        self._rules = rules
        self._settled = settled
        self._forest = Forest(max_depth=max_depth)
        self._participants: dict[str, _Participant] = {}
        self._blocked: set[str] = set()
        self._checks: list[tuple[float, str]] = []
        self._promotions = 0  # leaders sent upstream since one of them got a byte
        self._next_promotion = -math.inf

    def __repr__(self) -> str:
        leaders = ", ".join(self.leaders()) or "nobody"
        return f"<PullTree of {len(self._participants)} nodes, led by {leaders}>"

    def __len__(self) -> int:
        return len(self._participants)

    def leaders(self) -> list[str]:
        """Return the nodes that fetch the content upstream and make progress."""
        return [name for name, each in self._participants.items() if each.role is Role.LEADER]

    def parents(self) -> dict[str, str]:
        """Return each follower's parent."""
        return {node.id: node.parent.id for node in self._forest if node.parent is not None}

    def snapshot(self, now: float) -> TreeSnapshot:
        """Return the tree for people to look at."""
        self.expire(now)
        return snapshot(
            self._forest,
            {name: (each.role, each.offset) for name, each in self._participants.items()},
        )

    def assign(self, name: str, request: ParentRequest, now: float) -> Assignment:
        """Return where this node is to get the content from."""
        self.expire(now)
        asking = self._register(name, request, now)
        parent = (
            self._record_complaint(asking, request, now)
            if request.bad not in (None, name)
            else None
        )
        self._update_blocked(now)
        avoided = {bad for bad, until in asking.avoids.items() if until > now}

        # Case 1: peers have the complete content, and the asking node knows them.
        if request.held:
            return self._assign_in_crowd(asking, request, avoided, now)

        # Case 2: keep the parent if the complaint was unjustified, else take the best other one.
        if parent is None or not self._forest.has_room(parent):
            parent = self._forest.best_parent(asking.node, without=avoided)
        if parent is not None and self._forest.attach(asking.node, parent):
            return self._follow(asking, parent)

        # Case 3: there is no parent.
        answer = self._assign_without_parent(asking, avoided, now)
        asking.is_waiting = isinstance(answer, RetryLater)
        return answer

    def record_heartbeat(self, name: str, heartbeat: Heartbeat, now: float) -> float:
        """Record a node's state; return the seconds within which its next heartbeat is due."""
        self.expire(now)
        if heartbeat.role is Role.LEFT:
            self.remove(name)
            return self._rules.waiting_ttl
        sender = self._participant(name, now)
        sender.heard, sender.accused, sender.is_waiting = now, math.inf, False
        if heartbeat.offset > sender.offset:
            sender.offset, sender.advanced = heartbeat.offset, now
            self._promotions = 0 if heartbeat.role is Role.LEADER else self._promotions
        if heartbeat.role is Role.COMPLETE:
            self._promotions, self._next_promotion = 0, -math.inf
        self._update_position(sender, heartbeat, now)
        if heartbeat.role is Role.LEADER:
            sender.interval = self._rules.leader_heartbeat
        else:
            sender.interval = self._rules.heartbeat_among(len(self._participants))
        self._schedule_check(sender)
        return sender.interval

    def remove(self, name: str) -> None:
        """Forget a node."""
        if (participant := self._participants.pop(name, None)) is not None:
            self._blocked.discard(name)
            self._forest.remove(participant.node)

    def expire(self, now: float) -> None:
        """Forget the nodes whose lease is over, and demote leaders that stall."""
        while self._checks and self._checks[0][0] <= now:
            at, name = heapq.heappop(self._checks)
            participant = self._participants.get(name)
            if participant is None or participant.next_check != at:  # removed, or checked earlier
                continue
            participant.next_check = math.inf
            if self._lease_end(participant) > now:
                self._schedule_check(participant)
            elif participant.role is Role.LEADER and self._leader_silence_end(participant) > now:
                participant.role = None  # the leader stalls: its next byte makes it a source again
                self._forest.detach(participant.node)
                self._schedule_check(participant)
            else:
                self.remove(name)

    # The state of a node

    def _participant(self, name: str, now: float) -> _Participant:
        participant = self._participants.get(name)
        if participant is None:
            participant = self._participants[name] = _Participant(self._forest.add(name), heard=now)
        return participant

    def _register(self, name: str, request: ParentRequest, now: float) -> _Participant:
        """Record that a node asks: it has no parent, and its earlier role is over."""
        asking = self._participant(name, now)
        asking.role, asking.offset, asking.heard, asking.accused = (
            None,
            request.offset,
            now,
            math.inf,
        )
        asking.is_waiting = False
        asking.node.serves = request.serves
        self._forest.detach(asking.node)
        self._schedule_check(asking)
        return asking

    def _update_position(self, sender: _Participant, heartbeat: Heartbeat, now: float) -> None:
        """Move a node in the forest to the position that its heartbeat reports."""
        if heartbeat.role is Role.FOLLOWER and heartbeat.parent is not None:
            sender.role = Role.FOLLOWER
            parent = self._participant(heartbeat.parent, now)
            self._schedule_check(parent)
            if sender.node.parent is not parent.node:
                # a ring has no source: its nodes will ask again
                self._forest.attach(sender.node, parent.node)
            return
        if sender.advanced == -math.inf:
            sender.advanced = now  # a leader unknown to this tree has as long as a new one
        if heartbeat.role is Role.LEADER and sender.advanced + self._rules.leader_stall <= now:
            return
        if sender.role is not heartbeat.role:
            sender.role = heartbeat.role
            self._forest.make_source(sender.node)

    # Complaints

    def _record_complaint(
        self, asking: _Participant, request: ParentRequest, now: float
    ) -> ForestNode | None:
        """Record that the asking node's parent failed.

        Return the parent if it is not the one at fault, so that the asking node may keep it.
        """
        rules, bad, fault = self._rules, request.bad or "", request.why
        accused = self._participants.get(bad)
        if accused is not None and not self._is_justified(accused, request):
            return accused.node
        if fault is not ParentFault.BUSY:
            asking.avoids[bad] = now + rules.avoid * (3 if fault is ParentFault.SLOW else 1)
        if accused is None:
            return None
        if fault is ParentFault.BUSY:
            accused.busy_until = now + rules.busy
        elif accused.role is Role.COMPLETE and fault is not ParentFault.SLOW:
            self.remove(bad)
            return None
        elif fault in (ParentFault.DEAD, ParentFault.REFUSED, ParentFault.SHORT):
            accused.accused = min(accused.accused, now)
        self._blocked.add(bad)
        self._schedule_check(accused)
        return None

    def _is_justified(self, accused: _Participant, request: ParentRequest) -> bool:
        """Return False if a slow or stalled parent only waits for its own parent."""
        if request.why is ParentFault.SLOW:
            return accused.offset > request.offset + self._rules.ahead
        if request.why is ParentFault.STALL:
            root = self._participants.get(self._forest.root(accused.node).id)
            return root is None or root.offset > request.offset
        return True

    def _update_blocked(self, now: float) -> None:
        """Block the nodes that are busy or accused, and unblock all others."""
        for name in list(self._blocked):
            participant = self._participants[name]
            is_blocked = participant.accused <= now or participant.busy_until > now
            self._forest.block(participant.node, on=is_blocked)
            if not is_blocked:
                self._blocked.discard(name)

    def _assign_in_crowd(
        self, asking: _Participant, request: ParentRequest, avoided: set[str], now: float
    ) -> Assignment:
        """Let the first nodes, `request.held` in number, fetch from the holders that they know.

        Attach every later node below one of them.
        """
        leaders = sum(each.role is Role.LEADER for each in self._participants.values())
        if leaders >= request.held:
            holders = {
                name for name, each in self._participants.items() if each.role is Role.COMPLETE
            }
            parent = self._forest.best_parent(asking.node, without=avoided | holders)
            if parent is not None and self._forest.attach(asking.node, parent):
                return self._follow(asking, parent)
        return self._lead(asking, now) if request.serves else FetchUncoordinated()

    # Nodes without a parent

    def _assign_without_parent(
        self, asking: _Participant, avoided: set[str], now: float
    ) -> Assignment:
        """Make the asking node wait, for a parent or for its turn, or send it upstream."""
        # Case 1: a blocked node may be available again soon, or this tree is not settled yet.
        possible = [
            self._participants[name]
            for name in self._blocked - avoided
            if self._participants[name].node.depth is not None
        ]
        available = min((self._available_at(each) for each in possible), default=now)
        pause = max(available, self._settled) - now
        # Case 2: the last leader was sent upstream a moment ago.
        if pause <= 0 and asking.node.serves:
            pause = self._next_promotion - now
        if pause > 0:
            return RetryLater(pause)
        # Case 3: nobody could follow this node, so it needs no turn.
        if not asking.node.serves:
            return FetchUncoordinated()
        # Case 4: nodes with more bytes lost their parent too, and will ask in a moment.
        if not asking.has_yielded and self._others_have_more(asking):
            asking.has_yielded = True
            return RetryLater(self._rules.accused_timeout)
        # Case 5: it is this node's turn.
        delay = doubled(self._rules.backoff, self._promotions, most=self._rules.backoff_max)
        self._promotions, self._next_promotion = self._promotions + 1, now + delay
        return self._lead(asking, now)

    def _follow(self, asking: _Participant, parent: ForestNode) -> FollowParent:
        asking.role, asking.has_yielded = Role.FOLLOWER, False
        asking.interval = self._rules.heartbeat_among(len(self._participants))
        self._schedule_check(asking)
        return FollowParent(parent.id, (parent.depth or 0) + 1, asking.interval)

    def _lead(self, asking: _Participant, now: float) -> FetchUpstream:
        asking.role, asking.advanced = Role.LEADER, now
        asking.interval = self._rules.leader_heartbeat
        self._forest.make_source(asking.node)
        self._schedule_check(asking)
        return FetchUpstream(asking.interval)

    def _others_have_more(self, asking: _Participant) -> bool:
        """Return True if another node without a source would have to fetch much less.

        That node lost its parent and has not asked yet, or was told to wait.
        """
        enough = asking.offset + self._rules.ahead
        return any(
            each.offset > enough and each.node.serves and each.node.depth is None
            for each in self._participants.values()
            if each.is_waiting or each.role is Role.FOLLOWER
        )

    # Times

    def _available_at(self, blocked: _Participant) -> float:
        """Return the time when it is known whether a blocked node can have followers."""
        if blocked.accused == math.inf:
            return blocked.busy_until
        return max(blocked.busy_until, blocked.accused + self._rules.accused_timeout)

    def _leader_silence_end(self, leader: _Participant) -> float:
        """Return the time when a leader without a heartbeat is given up."""
        return min(
            leader.heard + self._rules.leader_lease, leader.accused + self._rules.accused_timeout
        )

    def _lease_end(self, participant: _Participant) -> float:
        match participant.role:
            case Role.LEADER:
                return min(
                    self._leader_silence_end(participant),
                    participant.advanced + self._rules.leader_stall,
                )
            case Role.FOLLOWER:
                return participant.heard + self._rules.heartbeats_missed * participant.interval
            case Role.COMPLETE:
                return participant.heard + self._rules.complete_ttl
            case _:
                return participant.heard + self._rules.waiting_ttl

    def _schedule_check(self, participant: _Participant) -> None:
        """Have the node's lease checked when it ends as things are now, or earlier."""
        if (end := self._lease_end(participant)) < participant.next_check:
            participant.next_check = end
            heapq.heappush(self._checks, (end, participant.node.id))
