"""Many nodes that keep a floor of replicas, in virtual time, with the decisions of the real nodes.

The plans, the counts, the promises and the requests are those of `spegel_py.replicas`. Simulated
are the stores, the records of other nodes' content, and the transfers. A transfer shares the
keeper's rate and the source's rate evenly; TCP, disks and pulls by runtimes are left out.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry

from spegel_py.errors import PeerUnreachable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING
from spegel_py.replicas.keep_messages import (
    ImageKept,
    ImageTaking,
    KeepAnswer,
    KeepRefused,
    KeepRequest,
    decode_keep,
    encode,
)
from spegel_py.replicas.keep_queue import RETRY, SLOTS, KeeperSnapshot, PendingKeep, refusal
from spegel_py.replicas.keep_requester import KeepRequester
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_counts import ReplicaCounts
from spegel_py.replicas.replica_plan import Action, ImageState, missing_replicas, plan
from spegel_py.replicas.replica_rules import SCAN, DiskUse, ReplicaRules
from spegel_py.replicas.take_order import TakeOrder, TakeProgress
from spegel_py.replicas.zone_spread import ZoneMap, target_of
from spegel_py.routing.base import Peer

RATE_IN, RATE_OUT = 20e6, 60e6
"""Bytes per second that a node takes and gives."""

LATE_DEATH, LATE_COPY = (0.3, 8.0), (0.0, 2.0)
"""Seconds after which another node knows of a death, and of a new copy."""

MEAN_SIZE, MAX_SIZE = 250e6, 4e9
"""Bytes of the median image, and of the largest."""

DISK = DiskUse(total=500 * 10**9, used=200 * 10**9)
TAG = "1"


@dataclass(slots=True)
class SimImage:
    """An image: `pulled` has the nodes whose runtimes have it, `kept` those with a replica and the
    times from which others know it.
    """

    digest: Digest
    size: int
    pulled: set[int] = field(default_factory=set)
    kept: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class SimTransfer:
    """An image on its way to a node."""

    image: int
    source: int
    target: int
    left: float


class SimRequests:
    """The RequestResponse port of one simulated node."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self._cluster = cluster
        self._number = number
        self.changed = asyncio.Event()
        self.handler: object = None
        """Is never called: the simulated nodes answer by themselves."""

    @property
    def id(self) -> str:
        return name_of(self._number)

    def partners(self) -> Mapping[str, Peer]:
        return {}

    def set_handler(self, handler: object) -> None:
        self.handler = handler

    async def request(self, peer_id: str, message: bytes, *, timeout: float) -> bytes:
        self._cluster.messages += 1
        node = self._cluster.nodes[int(peer_id[1:])]
        if not node.is_alive:
            raise PeerUnreachable("it is dead")
        request = decode_keep(message)
        assert isinstance(request, KeepRequest)
        return encode(node.answer(self.id, request))


class SimNode:
    """One node: its view of the others, and the images that it takes."""

    def __init__(self, cluster: SimCluster, number: int, rng: random.Random) -> None:
        self.cluster, self.number, self.id = cluster, number, name_of(number)
        self.is_alive = True
        self.next_scan = rng.uniform(0, SCAN)
        self.images: set[int] = set()
        self.queue: dict[Digest, PendingKeep] = {}
        self.counts = ReplicaCounts()
        self.requester = KeepRequester(
            requests=SimRequests(cluster, number),
            floors=lambda: dict.fromkeys(self.connected(), cluster.rules.floor),
            connected=self.connected,
            zones=lambda: cluster.zones,
            zone=cluster.zones.get(self.id, ""),
            rules=cluster.rules,
            metrics=cluster.metrics,
            wall=cluster.clock,
            monotonic=cluster.clock,
        )

    def connected(self) -> frozenset[str]:
        return self.cluster.connected(self.number) - {self.id}

    def answer(self, peer: str, request: KeepRequest) -> KeepAnswer:
        image = self.cluster.by_digest[request.manifest]
        held = {m for m in self.images if self.number in self.cluster.images[m].kept}
        if image in held:
            return ImageKept()
        if request.manifest in self.queue:
            return ImageTaking(0, 0)
        snapshot = KeeperSnapshot(disk=DISK)
        why = refusal(
            request,
            peer=peer,
            snapshot=snapshot,
            pending=self.queue,
            rules=self.cluster.rules,
            filters=EVERYTHING,
        )
        if why is not None:
            return KeepRefused(why, RETRY[why])
        order = TakeOrder(reference=request.reference, reason=request.reason, expires=0.0)
        self.queue[request.manifest] = PendingKeep(request, peer, TakeProgress(order))
        return ImageTaking(0, 0)

    async def scan(self) -> None:
        states = self._states()
        decisions = plan(
            states.values(),
            own=self.id,
            rules=self.cluster.rules,
            disk=DISK,
            zones=self.requester.view().zones,
        )
        for decision in decisions:
            image = self.cluster.images[self.cluster.by_digest[decision.manifest]]
            if decision.action is Action.HOLD:
                self.cluster.keep(image, self.number)
            elif decision.action is Action.RELEASE:
                image.kept.pop(self.number, None)
                if self.number not in image.pulled:
                    self.images.discard(self.cluster.by_digest[decision.manifest])
        if decisions:
            states = self._states()
        await self.requester.ask(states)

    def _states(self) -> dict[Digest, ImageState]:
        connected, zones = self.connected(), self.requester.view().zones
        states = (self._state(number, connected, zones) for number in sorted(self.images))
        return {one.manifest: one for one in states}

    def _state(self, number: int, connected: frozenset[str], zones: ZoneMap) -> ImageState:
        cluster = self.cluster
        image, now = cluster.images[number], cluster.now
        kept = {
            name_of(node)
            for node, told in image.kept.items()
            if node != self.number and told <= now
        } & connected
        count = self.counts
        is_held = self.number in image.kept
        replicas = count.update(image.digest, kept, connected=connected, now=now, is_held=is_held)
        state = ImageState(
            manifest=image.digest,
            names=(f"registry.example/app{number}:{TAG}",),
            size=image.size,
            alone=0,
            is_pulled=self.number in image.pulled,
            is_held=is_held,
            renewal_in=1.0,
            holders=frozenset({name_of(node) for node in image.pulled} & connected) | kept,
            replicas=replicas,
        )
        wanted = target_of(cluster.rules, zones)
        is_missing = missing_replicas(state, wanted, own=self.id, zones=zones) > 0
        has_surplus = len(state.kept(self.id)) > wanted.copies
        return replace(
            state,
            missing_for=count.missing_for(image.digest, is_missing=is_missing, now=now),
            surplus_for=count.surplus_for(image.digest, has_surplus=has_surplus, now=now),
        )


class SimCluster:
    """All nodes, in steps of one second.

    Args:
        zones: the number of zones, in which the nodes are in turn; 0 for nodes without a zone.
    """

    def __init__(
        self, *, nodes: int, images: int, floor: int, zones: int = 0, seed: int = 1
    ) -> None:
        self.now = 0.0
        self.messages = 0
        self.moved = 0.0
        self.last = 0
        """Bytes of the image that was moved to its end last."""
        self.rules = ReplicaRules(floor=floor)
        self.zones = {name_of(one): f"zone{one % zones}" for one in range(nodes) if zones}
        self.metrics = ReplicaMetrics(CollectorRegistry())
        self.rng = random.Random(seed)
        self._died: dict[int, float] = {}
        self._connected: dict[int, tuple[float, frozenset[str]]] = {}
        self.transfers: list[SimTransfer] = []
        self.images = [
            SimImage(
                Digest.of(b"image %d" % number),
                int(min(MAX_SIZE, self.rng.lognormvariate(math.log(MEAN_SIZE), 0.9))),
            )
            for number in range(images)
        ]
        self.by_digest = {image.digest: number for number, image in enumerate(self.images)}
        self.nodes = [SimNode(self, number, self.rng) for number in range(nodes)]
        self._pull_everything()

    def clock(self) -> float:
        return self.now

    def connected(self, observer: int) -> frozenset[str]:
        """Return the ids of the nodes that the observer takes for alive."""
        known = self._connected.get(observer)
        if known is not None and known[0] > self.now:
            return known[1]
        late = {node: died + self._delay(observer, node) for node, died in self._died.items()}
        found = frozenset(
            name_of(node.number)
            for node in self.nodes
            if node.is_alive or late.get(node.number, 0.0) > self.now
        )
        coming = [at for at in late.values() if at > self.now]
        self._connected[observer] = min(coming, default=math.inf), found
        return found

    def keep(self, image: SimImage, node: int) -> None:
        image.kept[node] = self.now + self.rng.uniform(*LATE_COPY)

    def kill(self, numbers: list[int]) -> None:
        """Kill nodes; their content is gone."""
        for number in numbers:
            self.nodes[number].is_alive = False
            self.nodes[number].queue.clear()
            self._died[number] = self.now
        self._connected.clear()

    def revive(self, numbers: list[int]) -> None:
        """Bring nodes back, with their content."""
        for number in numbers:
            self.nodes[number].is_alive = True
            self.nodes[number].next_scan = self.now + self.rng.uniform(0, SCAN)
            del self._died[number]
        self._connected.clear()

    def low(self) -> int:
        """Return the images below the floor that some living node has."""
        alive = {node.number for node in self.nodes if node.is_alive}
        floor = min(self.rules.floor, len(alive))
        return sum(
            len(alive & image.kept.keys()) < floor
            and bool(alive & (image.pulled | image.kept.keys()))
            for image in self.images
        )

    def lost(self) -> int:
        """Return the images that no living node has, though somebody had them."""
        alive = {node.number for node in self.nodes if node.is_alive}
        return sum(not alive & (image.pulled | image.kept.keys()) for image in self.images)

    def in_one_zone(self) -> int:
        """Return the images with several replicas, all in one zone."""
        alive = {node.number for node in self.nodes if node.is_alive}
        return sum(
            len(alive & image.kept.keys()) >= 2
            and len({self.zones.get(name_of(one)) for one in alive & image.kept.keys()}) == 1
            for image in self.images
        )

    def surplus(self) -> int:
        """Return the replicas of living nodes beyond the floor."""
        alive = {node.number for node in self.nodes if node.is_alive}
        return sum(
            max(0, len(alive & image.kept.keys()) - self.rules.floor) for image in self.images
        )

    async def run(self, seconds: float, *, until_settled: bool = True) -> tuple[float, float]:
        """Let time pass; return the seconds after which half and all images had their floor.

        They are infinite if that did not happen.
        """
        began, first = self.now, self.low()
        half = math.inf
        while self.now < began + seconds:
            for node in self.nodes:
                if node.is_alive and node.next_scan <= self.now:
                    node.next_scan += SCAN * self.rng.uniform(0.8, 1.2)
                    await node.scan()
            self._begin_transfers()
            self._move()
            self.now += 1.0
            if int(self.now) % 5:
                continue
            low = self.low()
            if half == math.inf and low <= first / 2:
                half = self.now - began
            if not low and until_settled and not self.transfers:
                return half, self.now - began
        return half, math.inf

    def _pull_everything(self) -> None:
        """Let runtimes have the images: few have most, and most are at few nodes (Zipf, 0.9)."""
        weights = [1 / (rank + 1) ** 0.9 for rank in range(len(self.images))]
        total = sum(weights)
        for number, image in enumerate(self.images):
            expected = weights[number] / total * len(self.nodes) * 12
            count = max(1, min(len(self.nodes), round(self.rng.gauss(expected, expected**0.5))))
            image.pulled = set(self.rng.sample(range(len(self.nodes)), count))
            for node in image.pulled:
                self.nodes[node].images.add(number)

    def _delay(self, observer: int, node: int) -> float:
        low, high = LATE_DEATH
        return low + (high - low) * ((observer * 7919 + node * 104729) % 1000) / 1000

    def _sources(self, image: SimImage, target: int) -> list[int]:
        alive = (n for n in image.pulled | image.kept.keys() if self.nodes[n].is_alive)
        return sorted(node for node in alive if node != target)

    def _begin_transfers(self) -> None:
        taking = Counter(one.target for one in self.transfers)
        giving = Counter(one.source for one in self.transfers)
        under_way = {(one.image, one.target) for one in self.transfers}
        for node in self.nodes:
            for digest in node.queue:
                image = self.by_digest[digest]
                if taking[node.number] >= SLOTS:
                    break
                sources = self._sources(self.images[image], node.number)
                if (image, node.number) in under_way or not sources:
                    continue
                two = self.rng.sample(sources, min(2, len(sources)))
                source = min(two, key=lambda one: giving[one])
                size = float(self.images[image].size)
                self.transfers.append(SimTransfer(image, source, node.number, size))
                taking[node.number] += 1
                giving[source] += 1

    def _move(self) -> None:
        taking = Counter(one.target for one in self.transfers)
        giving = Counter(one.source for one in self.transfers)
        for one in list(self.transfers):
            target, image = self.nodes[one.target], self.images[one.image]
            if not target.is_alive:
                self.transfers.remove(one)
                continue
            if not self.nodes[one.source].is_alive:
                sources = self._sources(image, one.target)
                if not sources:
                    self.transfers.remove(one)
                    target.queue.pop(image.digest, None)
                    continue
                one.source = self.rng.choice(sources)
            count = min(RATE_IN / taking[one.target], RATE_OUT / max(1, giving[one.source]))
            count = min(count, one.left)
            one.left -= count
            self.moved += count
            if one.left <= 0:
                self.transfers.remove(one)
                target.queue.pop(image.digest, None)
                target.images.add(one.image)
                self.last = image.size
                self.keep(image, one.target)


def name_of(number: int) -> str:
    """Return the id of a simulated node."""
    return f"n{number}"
