"""How soon silent peers are known in a cluster of any size, and how often others are suspected.

`python -m tests.benchmarks.swim` runs the real decisions of `failure_detector` on a virtual clock,
in clusters of up to 5,000 nodes, where every node is connected to every other one. Links lose 5 %
of the packets, which TCP repeats. Some nodes stand still now and then. Nodes freeze, the cluster is
split and heals, and a third of it restarts at once.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from spegel_py.routing.libp2p.failure_detector import (
    LATE,
    PERIOD,
    PING_TIMEOUT,
    AskOthers,
    DropPeer,
    FailureDetector,
    SuspectPeer,
)
from spegel_py.routing.libp2p.prober import RECENT

SIZES = (3, 10, 50, 200, 1000, 5000)
LARGEST = {"divided": 200, "restarted": 1000}
"""Nodes above which a scenario is left out, since it would take hours."""
LOSS = 0.05
TRIP, REPETITION = 0.001, 0.2
"""Seconds of a packet's way, and after which TCP repeats one first; then after twice as long."""
SLOW, PAUSES = 0.02, (0.3, 2.0)
"""Share of slow nodes, and the seconds, from and to, for which one stands still now and then."""
STARTING = (0.5, 2.0)
"""Seconds, from and to, for which a node that has just started is too busy to answer."""
CALM, KNOWN = 60.0, 20.0
"""Seconds at rest, and seconds in which a fault must be known."""

Action = Callable[[], None]


@dataclass(slots=True)
class Figures:
    """The figures of one scenario.

    Args:
        wrong: suspicions of nodes that ran and could be reached; `wrong_slow` of nodes that stood
            still for a moment; `dropped`: how many of both were dropped.
        seconds: from a fault until each other node dropped the victim.
        missed: pairs of a node and a victim that it did not drop in time.
        messages: messages that a node sends in a second at rest, on average.
        busiest: messages that the busiest node sent in one second.
    """

    scenario: str
    nodes: int
    wrong: int = 0
    wrong_slow: int = 0
    dropped: int = 0
    seconds: list[float] = field(default_factory=list)
    missed: int = 0
    messages: float = 0.0
    busiest: int = 0

    def quantile(self, share: float) -> float:
        """Return the seconds within which so many drops had come; NaN without any."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


@dataclass(slots=True)
class SimulatedNode:
    """One node: its detector, and until when it stands still."""

    name: str
    detector: FailureDetector
    phase: float
    side: int = 0
    still_until: float = -math.inf
    is_slow: bool = False
    pinged: set[str] = field(default_factory=set)
    waiting: dict[str, list[Action]] = field(default_factory=dict)


class SimulatedCluster:
    """All nodes on one virtual clock."""

    def __init__(self, scenario: str, count: int, *, seed: int = 1) -> None:
        self.random = Random(seed)
        self.figures = Figures(scenario, count)
        self.now = 0.0
        self._queue: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._sent: Counter[str] = Counter()
        self._total = 0
        names = frozenset(f"{self.random.getrandbits(64):016x}" for _ in range(count))
        self.nodes = {name: self._node(name, names) for name in sorted(names)}
        self.broken: dict[str, float] = {}
        for node in self.nodes.values():
            self._at(node.phase, lambda node=node: self._wake(node, node.phase, node.phase))  # type: ignore[misc]
        self._at(1.0, self._count)

    def _node(self, name: str, names: frozenset[str]) -> SimulatedNode:
        detector = FailureDetector(own=name, random=self.random, peers=names)
        return SimulatedNode(name, detector, self.random.random() * PERIOD)

    # The clock

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def _at(self, when: float, action: Action) -> None:
        heapq.heappush(self._queue, (when, next(self._numbers), action))

    def _on(self, node: SimulatedNode, when: float, action: Action) -> None:
        """Do something on a node at this time, or once the node goes on."""

        def run() -> None:
            if self.now < node.still_until:
                if node.still_until < math.inf:
                    self._at(node.still_until + self.random.uniform(0.001, 0.01), run)
            else:
                action()

        self._at(when, run)

    def _send(self, sender: SimulatedNode, receiver: SimulatedNode, action: Action) -> None:
        self._sent[sender.name] += 1
        if sender.side == receiver.side:
            delay, again = TRIP, REPETITION
            while self.random.random() < LOSS:
                delay, again = delay + again, 2 * again
            self._on(receiver, self.now + delay, action)

    def _count(self) -> None:
        if self._sent:
            self.figures.busiest = max(self.figures.busiest, max(self._sent.values()))
        self._total += self._sent.total()
        self._sent.clear()
        self._at(self.now + 1.0, self._count)

    # One node, as `prober` does it

    def _wake(self, node: SimulatedNode, planned: float, next_ping: float) -> None:
        if (late := self.now - planned) > LATE:
            node.detector.stood_still(late)
        self._act(node)
        if self.now >= next_ping:
            turn = round((self.now - node.phase) / PERIOD)
            if (peer := node.detector.next_target(turn)) is not None:
                self._ping(node, peer)
            next_ping = next_ping + PERIOD if late < PERIOD else self.now + PERIOD
        after = max(self.now + 0.02, min(next_ping, node.detector.next_at()))
        self._on(node, after, lambda: self._wake(node, after, next_ping))

    def _ping(self, node: SimulatedNode, peer: str) -> None:
        node.detector.pinged(peer, self.now)
        if peer not in node.pinged:
            node.pinged.add(peer)
            other = self.nodes[peer]
            pong = lambda: self._send(other, node, lambda: self._answered(node, peer))  # noqa: E731
            self._send(node, other, pong)

    def _answered(self, node: SimulatedNode, peer: str) -> None:
        node.pinged.discard(peer)
        node.detector.answered(peer, self.now)
        for waiting in node.waiting.pop(peer, ()):
            waiting()

    def _act(self, node: SimulatedNode) -> None:
        for action in list(node.detector.due(self.now)):
            match action:
                case AskOthers(peer, members, is_suspicion):
                    for member in members:
                        self._ask(node, self.nodes[member], peer, is_suspicion=is_suspicion)
                case SuspectPeer(peer):
                    self._suspected(node, self.nodes[peer])
                case DropPeer(peer):
                    self._dropped(node, self.nodes[peer])

    def _ask(
        self, node: SimulatedNode, member: SimulatedNode, peer: str, *, is_suspicion: bool
    ) -> None:
        def replied(hears: bool | None) -> None:
            node.detector.replied(peer, by=member.name, hears=hears, now=self.now)
            self._act(node)
            if (due := node.detector.next_at()) < self.now + PERIOD:
                self._on(node, max(due, self.now), lambda: self._act(node))

        def reply(hears: bool | None) -> None:
            self._send(member, node, lambda: replied(hears))

        self._send(node, member, lambda: self._asked(member, node, peer, is_suspicion, reply))

    def _asked(
        self,
        member: SimulatedNode,
        by: SimulatedNode,
        peer: str,
        is_suspicion: bool,
        reply: Callable[[bool | None], None],
    ) -> None:
        heard = member.detector.heard_at(peer)
        if heard is not None and self.now - heard < RECENT:
            reply(True)
            return
        self._ping(member, peer)
        if is_suspicion:
            member.detector.accused(peer, by=by.name, now=self.now)
        since = member.detector.silent_since(peer)
        if since is None:  # it is not connected any more
            reply(None)
        elif since + PING_TIMEOUT <= self.now:
            reply(False)
        else:
            self._wait_for_pong(member, peer, since + PING_TIMEOUT, reply)

    def _wait_for_pong(
        self, member: SimulatedNode, peer: str, until: float, reply: Callable[[bool], None]
    ) -> None:
        is_open = True

        def close(hears: bool) -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                reply(hears)

        member.waiting.setdefault(peer, []).append(lambda: close(True))
        self._on(member, until, lambda: close(False))

    # Verdicts

    def _suspected(self, node: SimulatedNode, peer: SimulatedNode) -> None:
        if peer.name in self.broken or peer.side != node.side:
            return
        if self.now - peer.still_until < 5.0 or self.now - node.still_until < 5.0:
            self.figures.wrong_slow += 1
        else:
            self.figures.wrong += 1

    def _dropped(self, node: SimulatedNode, peer: SimulatedNode) -> None:
        node.detector.remove(peer.name)
        node.pinged.discard(peer.name)
        node.waiting.pop(peer.name, None)
        since = self.broken.get(peer.name)
        if node.side != peer.side:
            since = self.broken.get("split", since)
        if since is not None:
            self.figures.seconds.append(self.now - since)
        elif node.name not in self.broken:
            self.figures.dropped += 1
            self._at(self.now + 1.0, lambda: self.connect(node, peer))

    def connect(self, node: SimulatedNode, peer: SimulatedNode) -> None:
        """Connect two nodes again, as redialling does it."""
        node.detector.add(peer.name)
        node.detector.set_helper(peer.name, on=True)

    # Faults

    def make_slow(self, share: float) -> None:
        """Let some nodes stand still now and then."""
        for node in self.random.sample(list(self.nodes.values()), int(share * len(self.nodes))):
            node.is_slow = True
            self._at(self.random.uniform(1, 10), lambda node=node: self._pause(node))  # type: ignore[misc]

    def _pause(self, node: SimulatedNode) -> None:
        if node.name not in self.broken:
            node.still_until = self.now + self.random.uniform(*PAUSES)
            self._at(self.now + self.random.uniform(5, 15), lambda: self._pause(node))

    def freeze(self, share: float) -> None:
        """Stop some nodes for good; their connections stay open."""
        steady = [node for node in self.nodes.values() if not node.is_slow]
        for node in self.random.sample(steady, max(1, int(share * len(steady)))):
            node.still_until, self.broken[node.name] = math.inf, self.now

    def split(self) -> None:
        """Lose every packet between the halves."""
        for number, node in enumerate(self.nodes.values()):
            node.side = number % 2
        self.broken["split"] = self.now

    def heal(self) -> None:
        """Connect all again."""
        del self.broken["split"]
        for node in self.nodes.values():
            node.side = 0
        for node in self.nodes.values():
            for peer in self.nodes.values():
                if peer is not node and node.detector.heard_at(peer.name) is None:
                    node.pinged.discard(peer.name)
                    self.connect(node, peer)

    def restart(self, share: float) -> None:
        """Replace some nodes at once by new processes, which are busy at first."""
        names = frozenset(self.nodes)
        for name in self.random.sample(sorted(names), int(share * len(names))):
            node = self.nodes[name]
            node.detector = FailureDetector(own=name, random=self.random, peers=names)
            node.pinged.clear()
            node.waiting.clear()
            node.still_until = self.now + self.random.uniform(*STARTING)
            for other in self.nodes.values():
                if other is not node:  # its connection ended, and is there again
                    other.detector.remove(name)
                    other.pinged.discard(name)
                    self.connect(other, node)

    def count_missed(self) -> None:
        """Count the pairs of which one should have dropped the other."""
        living = [node for node in self.nodes.values() if node.name not in self.broken]
        victims = sum(name in self.nodes for name in self.broken)
        pairs = len(living) * victims
        if "split" in self.broken:
            ones = sum(node.side for node in living)
            pairs += 2 * ones * (len(living) - ones)
        self.figures.missed = pairs - len(self.figures.seconds)

    def count_messages(self, seconds: float) -> None:
        """Record the messages of the last seconds as those of a cluster at rest."""
        self.figures.messages = self._total / seconds / len(self.nodes)


def calm(count: int, seed: int = 1) -> Figures:
    """Return the figures of a cluster with loss and slow nodes, in which nothing happens."""
    cluster = SimulatedCluster("rest, 5 % loss, 2 % slow", count, seed=seed)
    cluster.make_slow(SLOW)
    cluster.run(CALM)
    cluster.count_messages(CALM)
    return cluster.figures


def frozen(count: int, seed: int = 1) -> Figures:
    """Return the figures of a cluster in which 1 % of the nodes freeze, one at least."""
    cluster = SimulatedCluster("1 % freeze", count, seed=seed)
    cluster.make_slow(SLOW)
    cluster.run(5.0 + cluster.random.random())
    cluster.freeze(0.01)
    cluster.run(KNOWN)
    cluster.count_missed()
    return cluster.figures


def divided(count: int, seed: int = 1) -> Figures:
    """Return the figures of a cluster that is split in halves, and heals."""
    cluster = SimulatedCluster("split and healed", count, seed=seed)
    cluster.run(5.0 + cluster.random.random())
    cluster.split()
    cluster.run(KNOWN)
    cluster.count_missed()
    cluster.heal()
    cluster.run(KNOWN)
    return cluster.figures


def restarted(count: int, seed: int = 1) -> Figures:
    """Return the figures of a cluster of which a third restarts at once."""
    cluster = SimulatedCluster("a third restarts", count, seed=seed)
    cluster.run(5.0 + cluster.random.random())
    cluster.restart(1 / 3)
    cluster.run(KNOWN)
    return cluster.figures


SCENARIOS = (calm, frozen, divided, restarted)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures of each scenario and size."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.swim", description="Simulate the watching of peers."
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    if not options.json:
        print(
            "nodes  scenario                  p50 s  p99 s  max s  missed  wrong  slow  dropped  "
            "messages/s  busiest"
        )
    for count in options.sizes:
        for scenario in SCENARIOS:
            if count > LARGEST.get(scenario.__name__, count):
                continue
            _show(scenario(count, options.seed), as_json=options.json)
    return 0


def _show(figures: Figures, *, as_json: bool) -> None:
    times = [figures.quantile(share) for share in (0.5, 0.99, 1.0)]
    if as_json:
        row = {
            "scenario": figures.scenario,
            "nodes": figures.nodes,
            "seconds": None if math.isnan(times[0]) else [round(each, 2) for each in times],
            "missed": figures.missed,
            "wrong": figures.wrong,
            "wrong_slow": figures.wrong_slow,
            "dropped": figures.dropped,
            "messages": round(figures.messages, 2),
            "busiest": figures.busiest,
        }
        print(json.dumps(row), flush=True)
        return
    messages = f"{figures.messages:.2f}" if figures.messages else "–"
    shown = "  ".join("    –" if math.isnan(each) else f"{each:5.2f}" for each in times)
    print(
        f"{figures.nodes:5}  {figures.scenario:24}  {shown}  {figures.missed:6}  "
        f"{figures.wrong:5}  {figures.wrong_slow:4}  {figures.dropped:7}  "
        f"{messages:>10}  {figures.busiest:7}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
