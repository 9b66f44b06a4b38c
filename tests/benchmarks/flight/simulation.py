"""Many nodes that pull one blob at once, in virtual time: real coordinators, simulated nodes.

Bytes flow like a fluid. The leaders share the registry's rate evenly, and the followers of one node
share its upload rate. In each step of STEP seconds a node gets bytes that its parent had before, so
a hop costs one step. Messages take LATENCY each way, and a coordinator needs SERVICE for each, one
after the other. Half of the dying nodes break their connections at once (a killed process), half
fall silent (a lost machine).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from random import Random

from spegel_py.inflight.coordinator import Coordinator
from spegel_py.inflight.messages import (
    CoordinatorRequest,
    CoordinatorResponse,
    FetchUncoordinated,
    FetchUpstream,
    FollowParent,
    Heartbeat,
    ParentFault,
    ParentRequest,
    RetryLater,
    Role,
)
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.inflight.rules import InFlightRules
from spegel_py.mirror.slow_peers import SLOW, ParallelSettings
from spegel_py.oci.digest import Digest
from spegel_py.routing.libp2p.peer_records import TTL_FACTOR
from spegel_py.routing.libp2p.sharing import next_interval

STEP = 0.05
LATENCY = 0.002
SERVICE = 0.002
"""Seconds of a coordinator's processor for one message.

A stream of libp2p opened, read and answered.
"""
SEEN = 0.3
"""Seconds until all nodes know that a connection broke, or that a node joined."""
PATIENCE = 600.0
"""Seconds after which the simulation is aborted."""
SPREAD = ParallelSettings().peers
"""Holders that a node uses in parallel where one is slow."""
FOUND = 8
"""Holders that one lookup finds at most."""
DIGEST = Digest.of(b"the layer")


class State(Enum):
    ASKING = auto()
    LEADING = auto()
    FOLLOWING = auto()
    TAKING = auto()
    ALONE = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The conditions of a run.

    `nodes` start within `spread` seconds to pull `size` bytes; rates are in bytes per second. The
    share `churn` of them dies within the time of one node's pull, the first leader and the
    coordinator first. As many nodes join.
    """

    nodes: int
    size: int = 100_000_000
    upstream: float = 12.5e6
    upload: float = 25e6
    spread: float = 2.0
    churn: float = 0.0
    seed: int = 1

    @property
    def alone(self) -> float:
        """Seconds of one node's pull without other nodes."""
        return self.size / self.upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The measurements of a run.

    `upstream` is in sizes of the blob, `makespan` in seconds. `messages` are those that a node
    sent, without answers. `leaders` were sent upstream; `alone` is the number that went there by
    themselves.
    """

    scene: Scene
    makespan: float
    upstream: float
    messages: float
    depth: int
    leaders: int
    alone: int
    queue: float
    done: int
    living: int


@dataclass(slots=True, eq=False)
class _Node:
    id: str
    state: State = State.ASKING
    is_alive: bool = True
    have: float = 0.0
    grew: float = 0.0
    depth: int = 0
    renew: float = 0.0
    parent: _Node | None = None
    leads: bool = False  # it is fed by holders, and others by it
    holders: list[_Node] = field(default_factory=list)  # that it takes from, found by the router
    looked: float = 0.0  # when they were looked up
    feeds: int = 0
    serial: int = 0  # of its questions: an answer to an earlier one is of no use
    coordinator: Coordinator | None = None
    free: float = 0.0  # when its coordinator has answered all that came
    told: list[str] = field(default_factory=list)
    deaf: dict[str, float] = field(
        default_factory=dict
    )  # coordinators that did not answer, until when


class Simulation:
    """One run of a scene."""

    def __init__(self, scene: Scene, *, rules: InFlightRules | None = None) -> None:
        self.scene = scene
        self._rules = rules or InFlightRules()
        self._random = Random(scene.seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._nodes: dict[str, _Node] = {}
        self._view: set[str] = set()
        self._ranked: list[str] = []
        self._holders: list[_Node] = []
        self._to_die = round(scene.nodes * scene.churn)
        self._sent = self._leaders = self._alone = self._deepest = 0
        self._fetched = self._queue = 0.0

    def run(self) -> Result:
        """Return the result once every living node has the blob."""
        scene = self.scene
        for _ in range(scene.nodes):
            self._join(self._random.uniform(0, scene.spread), at_once=True)
        for number in range(self._to_die):
            self._at(self._random.uniform(0.3, 1.0) * scene.alone, partial(self._kill_one, number))
        while self.now < PATIENCE and (self._to_die or not self._is_over()):
            self._step()
        living = [node for node in self._nodes.values() if node.is_alive]
        return Result(
            scene=scene,
            makespan=self.now,
            upstream=self._fetched / scene.size,
            messages=self._sent / scene.nodes,
            depth=self._deepest,
            leaders=self._leaders,
            alone=self._alone,
            queue=self._queue,
            done=sum(node.state is State.DONE for node in living),
            living=len(living),
        )

    def _is_over(self) -> bool:
        return all(node.state is State.DONE or not node.is_alive for node in self._nodes.values())

    # Time

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), event))

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        self._at(self.now + seconds, event)

    def _step(self) -> None:
        end = self.now + STEP
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end
        self._flow()

    # Bytes

    def _flow(self) -> None:
        active = [
            n
            for n in self._nodes.values()
            if n.is_alive and n.state not in (State.DONE, State.ASKING)
        ]
        fetching = sum(node.state in (State.LEADING, State.ALONE) for node in active)
        gains = [(node, self._gain(node, fetching)) for node in active]
        for node, gain in gains:
            if gain > 0:
                node.have, node.grew = node.have + gain, self.now
            if node.have >= self.scene.size:
                self._finish(node)
            elif node.state is State.TAKING:
                self._take_on(node, gain / STEP)
            elif node.state is State.FOLLOWING and self.now - node.grew > self._rules.stall_at(
                node.depth
            ):
                self._complain(node, ParentFault.STALL)

    def _gain(self, node: _Node, fetching: int) -> float:
        left = self.scene.size - node.have
        if node.state is State.TAKING:
            return min(
                left,
                sum(self.scene.upload / each.feeds for each in node.holders if each.is_alive)
                * STEP,
            )
        if node.state is not State.FOLLOWING:
            gain = min(left, self.scene.upstream / fetching * STEP)
            self._fetched += gain
            return gain
        parent = node.parent
        if parent is None or not parent.is_alive:
            return 0.0
        return min(left, max(0.0, parent.have - node.have), self.scene.upload / parent.feeds * STEP)

    def _finish(self, node: _Node) -> None:
        was_following = node.state is State.FOLLOWING
        self._unfollow(node)
        node.have, node.state = float(self.scene.size), State.DONE
        node.serial += 1
        self._holders.append(node)
        if not was_following:  # else it is advertised before the coordinator would forget the node
            self._tell(node, Role.COMPLETE)

    # Coming and going

    def _join(self, start: float, *, at_once: bool) -> None:
        node = _Node(f"n{len(self._nodes)}")
        self._nodes[node.id] = node
        if at_once:
            self._view.add(node.id)
            self._ranked = []
        else:
            self._at(start + SEEN, lambda: self._change(node.id, comes=True))
        self._at(start, lambda: self._begin(node))

    def _begin(self, node: _Node) -> None:
        node.grew = self.now
        self._ask(node)

    def _kill_one(self, number: int) -> None:
        self._to_die -= 1
        living = [node for node in self._nodes.values() if node.is_alive]
        leaders = [node for node in living if node.state is State.LEADING]
        victims = (
            leaders if number == 0 else [self._nodes[self._order()[0]]] if number == 1 else living
        )
        victim = self._random.choice([each for each in victims if each.is_alive] or living)
        self._kill(victim, silently=number % 2 == 1)
        self._join(self.now + self._random.uniform(0, self.scene.spread), at_once=False)

    def _kill(self, victim: _Node, *, silently: bool) -> None:
        victim.is_alive = False
        self._unfollow(victim)
        interval = next_interval(4.0, base=4.0, peers=len(self._view))
        self._after(
            TTL_FACTOR * interval if silently else SEEN,
            lambda: self._change(victim.id, comes=False),
        )
        if not silently:
            for node in self._nodes.values():
                if node.parent is victim:
                    self._after(STEP, partial(self._broke, node, victim))

    def _broke(self, node: _Node, victim: _Node) -> None:
        if node.is_alive and node.parent is victim and node.state is State.FOLLOWING:
            self._complain(node, ParentFault.DEAD)

    def _change(self, name: str, *, comes: bool) -> None:
        (self._view.add if comes else self._view.discard)(name)
        self._ranked = []
        for node in self._nodes.values():
            if node.coordinator is not None and node.is_alive:
                node.coordinator.set_members(self._view - {node.id}, self.now)
        first = self._order()[:1]
        for node in self._nodes.values():
            if (
                node.is_alive
                and node.told
                and node.told[:1] != first
                and node.state is not State.DONE
            ):
                self._renew(node, node.serial, again=False)

    # Talking to coordinators

    def _order(self) -> list[str]:
        if not self._ranked:
            self._ranked = ranked_nodes(DIGEST, self._view, self._rules.coordinators)
        return self._ranked

    def _take(self, node: _Node, most: int) -> bool:
        """Fetch from up to this many holders of the blob; return False if there is none."""
        if not (known := self._living_holders()):
            return False
        self._unfollow(node)
        node.state, node.looked = State.TAKING, self.now
        node.holders = self._random.sample(known, min(most, len(known)))
        for holder in node.holders:
            holder.feeds += 1
        return True

    def _living_holders(self) -> list[_Node]:
        return [holder for holder in self._holders if holder.is_alive and holder.id in self._view]

    def _take_on(self, node: _Node, rate: float) -> None:
        """Look up again if the holders are gone, or slow for a while.

        Then fetch from several at once.
        """
        is_slow = rate < SLOW.min_rate and self.now - node.looked > SLOW.window
        if (is_slow or not any(holder.is_alive for holder in node.holders)) and not self._take(
            node, SPREAD
        ):
            self._ask(node)

    def _ask(self, node: _Node, bad: str | None = None, why: ParentFault | None = None) -> None:
        self._unfollow(node)
        node.state, node.leads = State.ASKING, False
        node.serial += 1
        serial = node.serial

        def answered(reply: CoordinatorResponse) -> None:
            if node.is_alive and node.serial == serial:
                self._obey(node, reply)

        ask = ParentRequest(
            DIGEST, int(node.have), held=min(FOUND, len(self._living_holders())), bad=bad, why=why
        )
        self._send(node, ask, answered, self._asked_first(node))

    def _ask_again(self, node: _Node, serial: int) -> None:
        if node.is_alive and node.serial == serial:
            self._ask(node)

    def _complain(self, node: _Node, why: ParentFault) -> None:
        assert node.parent is not None
        self._ask(node, node.parent.id, why)

    def _obey(self, node: _Node, reply: CoordinatorResponse) -> None:
        match reply:
            case FollowParent(parent, depth, renew):
                self._follow(node, self._nodes[parent], depth, renew)
                self._after(renew, partial(self._renew, node, node.serial))
            case FetchUpstream(renew) if self._take(node, 1):
                node.renew, node.leads = renew, True
                self._renew(node, node.serial)
            case FetchUpstream(renew):
                self._leaders += 1
                node.state, node.renew, node.grew = State.LEADING, renew, self.now
                self._renew(node, node.serial)
            case RetryLater(seconds) if self.now - node.grew < self._rules.max_silence:
                self._after(seconds, partial(self._ask_again, node, node.serial))
            case _:
                self._alone += 1
                node.state = State.ALONE

    def _follow(self, node: _Node, parent: _Node, depth: int, renew: float) -> None:
        node.state, node.parent, node.depth, node.renew, node.grew = (
            State.FOLLOWING,
            parent,
            depth,
            renew,
            self.now,
        )
        parent.feeds += 1
        self._deepest = max(self._deepest, depth)
        if not parent.is_alive:
            self._after(STEP, lambda: self._broke(node, parent))

    def _unfollow(self, node: _Node) -> None:
        if node.parent is not None:
            node.parent.feeds -= 1
            node.parent = None
        for holder in node.holders:
            holder.feeds -= 1
        node.holders = []

    def _renew(self, node: _Node, serial: int, *, again: bool = True) -> None:
        if not node.is_alive or node.serial != serial:
            return
        if node.state is State.LEADING or (node.state is State.TAKING and node.leads):
            self._tell(node, Role.LEADER)
        elif node.state is State.FOLLOWING and node.renew:
            self._tell(node, Role.FOLLOWER)
        if again:
            self._after(node.renew, lambda: self._renew(node, serial))

    def _tell(self, node: _Node, role: Role) -> None:
        parent = node.parent.id if node.parent is not None and role is Role.FOLLOWER else None
        note = Heartbeat(DIGEST, role, int(node.have), parent)
        node.told = self._order()[:]
        self._send(node, note, lambda _: None, self._asked_first(node))

    def _asked_first(self, node: _Node) -> list[str]:
        """Return the coordinator and the stand-ins after it; unresponsive ones come last."""
        return sorted(self._order(), key=lambda name: node.deaf.get(name, 0.0) > self.now)

    def _send(
        self,
        node: _Node,
        question: CoordinatorRequest,
        answered: Callable[[CoordinatorResponse], None],
        targets: list[str],
    ) -> None:
        """Send a request to the first of these coordinators, or after its timeout to the next."""
        if not targets:
            answered(FetchUncoordinated())
            return
        target, asked = self._nodes[targets[0]], self.now
        within = self._rules.answer_within(len(self._view))
        is_over = False

        def too_late() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                node.deaf[target.id] = self.now + self._rules.unresponsive
                self._send(node, question, answered, targets[1:])

        def reply(answer: CoordinatorResponse) -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                answered(answer)

        def serve() -> None:
            if target.is_alive:
                answer = self._coordinator(target).answer(node.id, question, self.now)
                self._after(LATENCY, lambda: reply(answer))

        self._after(within, too_late)
        self._sent += 1
        if target.is_alive:
            target.free = max(target.free, asked + LATENCY) + SERVICE
            self._queue = max(self._queue, target.free - asked)
            self._at(target.free, serve)

    def _coordinator(self, node: _Node) -> Coordinator:
        if node.coordinator is None:
            node.coordinator = Coordinator(own=node.id, now=-60.0, rules=self._rules)
            node.coordinator.set_members(self._view - {node.id}, -60.0)
        return node.coordinator


def simulate(scene: Scene) -> Result:
    """Run one scene."""
    return Simulation(scene).run()
