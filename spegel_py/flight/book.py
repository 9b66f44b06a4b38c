"""The steward's book of one digest: who fetches it upstream, who takes it from whom, and who is sent where. Pure.

Times are monotonic seconds, passed in. What nodes say of themselves is believed. What one says of another keeps only
itself away from that one, and puts the other on notice: its next word, or its silence, decides. So a broken link
between two nodes costs nobody else.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from spegel_py.flight.messages import Alone, Answer, Ask, Follow, Lead, Note, Role, Shape, Wait, Why
from spegel_py.flight.rules import Rules
from spegel_py.flight.shape import draw
from spegel_py.flight.tree import MAX_DEPTH, Node, Tree


@dataclass(slots=True)
class _Part:
    """What one node does, as far as it is known; `role` is None while it has no source and is none."""

    node: Node
    heard: float
    role: Role | None = None
    offset: int = 0
    renew: float = 0.0  # within how many seconds it was told to speak again
    advanced: float = -math.inf  # when it last got a byte
    accused: float = math.inf  # since when it is on notice
    busy: float = -math.inf  # until when it takes nobody
    is_waiting: bool = False  # for a source: it was told to ask again
    has_yielded: bool = False  # to those that have more, since it had a source
    shuns: dict[str, float] = field(default_factory=dict)  # whom it is not sent to, until when
    watched: float = math.inf  # when its end is looked at next


class Book:
    """Answers the asks for one digest. Nobody is sent upstream before the time `settled`."""

    def __init__(
        self, *, rules: Rules, settled: float = -math.inf, max_depth: int = MAX_DEPTH
    ) -> None:
        self._rules = rules
        self._settled = settled
        self._tree = Tree(max_depth=max_depth)
        self._parts: dict[str, _Part] = {}
        self._blocked: set[str] = set()
        self._ends: list[tuple[float, str]] = []
        self._promotions = 0  # since one of those sent upstream got a byte
        self._next_promotion = -math.inf

    def __repr__(self) -> str:
        return f"<Book of {len(self._parts)} nodes, led by {', '.join(self.leaders()) or 'nobody'}>"

    def __len__(self) -> int:
        return len(self._parts)

    def leaders(self) -> list[str]:
        """Return who fetches the content upstream, and gets on with it."""
        return [name for name, part in self._parts.items() if part.role is Role.LEAD]

    def parents(self) -> dict[str, str]:
        """Return who takes it from whom."""
        return {node.id: node.parent.id for node in self._tree if node.parent is not None}

    def shape(self, now: float) -> Shape:
        """Return who takes it from whom, for people to look at."""
        self.expire(now)
        return draw(
            self._tree, {name: (part.role, part.offset) for name, part in self._parts.items()}
        )

    def ask(self, name: str, ask: Ask, now: float) -> Answer:
        """Return where this node is to take the content from."""
        self.expire(now)
        part = self._enter(name, ask, now)
        source = self._complain(part, ask, now) if ask.bad not in (None, name) else None
        self._unblock(now)
        shunned = {bad for bad, until in part.shuns.items() if until > now}
        if ask.held:
            return self._line_up(part, ask, shunned, now)
        if source is None or not self._tree.has_room(source):
            source = self._tree.pick(part.node, without=shunned)
        if source is not None and self._tree.attach(part.node, source):
            return self._follow(part, source)
        answer = self._without_source(part, shunned, now)
        part.is_waiting = isinstance(answer, Wait)
        return answer

    def note(self, name: str, note: Note, now: float) -> float:
        """Take in what a node does; return within how many seconds it is to be heard from again."""
        self.expire(now)
        if note.role is Role.GONE:
            self.lost(name)
            return self._rules.waiting
        part = self._part(name, now)
        part.heard, part.accused, part.is_waiting = now, math.inf, False
        if note.offset > part.offset:
            part.offset, part.advanced = note.offset, now
            self._promotions = 0 if note.role is Role.LEAD else self._promotions
        if note.role is Role.HOLD:
            self._promotions, self._next_promotion = 0, -math.inf
        self._place(part, note, now)
        is_leader = note.role is Role.LEAD
        part.renew = self._rules.lead_renew if is_leader else self._rules.renew_of(len(self._parts))
        self._watch(part)
        return part.renew

    def lost(self, name: str) -> None:
        """Forget a node that is gone."""
        if (part := self._parts.pop(name, None)) is not None:
            self._blocked.discard(name)
            self._tree.remove(part.node)

    def expire(self, now: float) -> None:
        """Let go of those whose time is over."""
        while self._ends and self._ends[0][0] <= now:
            at, name = heapq.heappop(self._ends)
            part = self._parts.get(name)
            if part is None or part.watched != at:  # gone, or looked at before
                continue
            part.watched = math.inf
            if self._end(part) > now:
                self._watch(part)
            elif part.role is Role.LEAD and self._silence(part) > now:
                part.role = None  # it stalls: with its next byte it is a source again
                self._tree.detach(part.node)
                self._watch(part)
            else:
                self.lost(name)

    # What is known of a node

    def _part(self, name: str, now: float) -> _Part:
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(self._tree.add(name), heard=now)
        return part

    def _enter(self, name: str, ask: Ask, now: float) -> _Part:
        """Note that a node asks, and so has no source: what it did before is over."""
        part = self._part(name, now)
        part.role, part.offset, part.heard, part.accused = None, ask.offset, now, math.inf
        part.is_waiting = False
        part.node.serves = ask.serves
        self._tree.detach(part.node)
        self._watch(part)
        return part

    def _place(self, part: _Part, note: Note, now: float) -> None:
        """Put a node where it says that it is."""
        if note.role is Role.FOLLOW and note.parent is not None:
            part.role = Role.FOLLOW
            parent = self._part(note.parent, now)
            self._watch(parent)
            if part.node.parent is not parent.node:
                self._tree.attach(
                    part.node, parent.node
                )  # a ring has no source: its nodes will ask again
            return
        if part.advanced == -math.inf:
            part.advanced = now  # a leader that this book did not know has as long as a new one
        if note.role is Role.LEAD and part.advanced + self._rules.lead_stall <= now:
            return
        if part.role is not note.role:
            part.role = note.role
            self._tree.make_source(part.node)

    # Complaints

    def _complain(self, part: _Part, ask: Ask, now: float) -> Node | None:
        """Take in that the asker's source is bad; return it where the fault is not its own, so that one may stay."""
        rules, bad = self._rules, ask.bad or ""
        accused = self._parts.get(bad)
        if accused is not None and not self._is_justified(accused, ask):
            return accused.node
        if ask.why is not Why.BUSY:
            part.shuns[bad] = now + rules.shun * (3 if ask.why is Why.SLOW else 1)
        if accused is None:
            return None
        if ask.why is Why.BUSY:
            accused.busy = now + rules.busy
        elif accused.role is Role.HOLD and ask.why is not Why.SLOW:
            self.lost(bad)
            return None
        elif ask.why in (Why.DEAD, Why.REFUSED, Why.SHORT):
            accused.accused = min(accused.accused, now)
        self._blocked.add(bad)
        self._watch(accused)
        return None

    def _is_justified(self, accused: _Part, ask: Ask) -> bool:
        """Say whether a source that is slow or stalls has more than it gives, rather than waits itself."""
        if ask.why is Why.SLOW:
            return accused.offset > ask.offset + self._rules.ahead
        if ask.why is Why.STALL:
            top = self._parts.get(self._tree.top(accused.node).id)
            return top is None or top.offset > ask.offset
        return True

    def _unblock(self, now: float) -> None:
        """Let nobody be sent to those that are busy or on notice, and let them again to the others."""
        for name in list(self._blocked):
            part = self._parts[name]
            is_blocked = part.accused <= now or part.busy > now
            self._tree.block(part.node, on=is_blocked)
            if not is_blocked:
                self._blocked.discard(name)

    def _line_up(self, part: _Part, ask: Ask, shunned: set[str], now: float) -> Answer:
        """Have as many as there are holders take it from those, which they know, and all others from these."""
        leaders = sum(each.role is Role.LEAD for each in self._parts.values())
        if leaders >= ask.held:
            holders = {name for name, each in self._parts.items() if each.role is Role.HOLD}
            source = self._tree.pick(part.node, without=shunned | holders)
            if source is not None and self._tree.attach(part.node, source):
                return self._follow(part, source)
        return self._lead(part, now) if ask.serves else Alone()

    # Where there is no source

    def _without_source(self, part: _Part, shunned: set[str], now: float) -> Answer:
        """Send the asker upstream, or have it wait: for a source that may come back, or for its turn."""
        hopes = [
            self._parts[name]
            for name in self._blocked - shunned
            if self._parts[name].node.depth is not None
        ]
        pause = max(min((self._free(each) for each in hopes), default=now), self._settled) - now
        if pause <= 0 and part.node.serves:
            pause = self._next_promotion - now
        if pause > 0:
            return Wait(pause)
        if not part.node.serves:
            return Alone()
        if not part.has_yielded and self._others_have_more(part):
            part.has_yielded = True  # they lost their source too, and will ask in a moment
            return Wait(self._rules.notice)
        delay = min(self._rules.backoff * 2**self._promotions, self._rules.backoff_most)
        self._promotions, self._next_promotion = self._promotions + 1, now + delay
        return self._lead(part, now)

    def _follow(self, part: _Part, source: Node) -> Follow:
        part.role, part.renew, part.has_yielded = (
            Role.FOLLOW,
            self._rules.renew_of(len(self._parts)),
            False,
        )
        self._watch(part)
        return Follow(source.id, (source.depth or 0) + 1, part.renew)

    def _lead(self, part: _Part, now: float) -> Lead:
        part.role, part.advanced, part.renew = Role.LEAD, now, self._rules.lead_renew
        self._tree.make_source(part.node)
        self._watch(part)
        return Lead(part.renew)

    def _others_have_more(self, part: _Part) -> bool:
        """Say whether another one without a source would have to fetch much less than this one.

        It lost its source and has not asked yet, or was told to wait.
        """
        enough = part.offset + self._rules.ahead
        others = (
            each for each in self._parts.values() if each.is_waiting or each.role is Role.FOLLOW
        )
        return any(
            each.offset > enough and each.node.serves and each.node.depth is None for each in others
        )

    # Times

    def _free(self, part: _Part) -> float:
        """Return when it is known of a blocked node whether it can be followed."""
        return max(
            part.busy, part.accused + self._rules.notice if part.accused < math.inf else -math.inf
        )

    def _silence(self, part: _Part) -> float:
        """Return when a leader that says nothing is given up."""
        return min(part.heard + self._rules.lead_lease, part.accused + self._rules.notice)

    def _end(self, part: _Part) -> float:
        match part.role:
            case Role.LEAD:
                return min(self._silence(part), part.advanced + self._rules.lead_stall)
            case Role.FOLLOW:
                return part.heard + self._rules.leases * part.renew
            case Role.HOLD:
                return part.heard + self._rules.hold
            case _:
                return part.heard + self._rules.waiting

    def _watch(self, part: _Part) -> None:
        """Have a node's end looked at, at the latest when it is due by now."""
        if (end := self._end(part)) < part.watched:
            part.watched = end
            heapq.heappush(self._ends, (end, part.node.id))
