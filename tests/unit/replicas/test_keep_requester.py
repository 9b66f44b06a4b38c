"""A speaker's requests to other nodes, over a network in memory."""

from __future__ import annotations

from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.replicas.keep_messages import (
    ImageKept,
    ImageTaking,
    ImageUsed,
    KeepAnswer,
    KeepMessage,
    KeepRefused,
    KeepRequest,
    RefusalReason,
    UsedRequest,
    decode_keep,
    encode,
)
from spegel_py.replicas.keep_plan import NEW
from spegel_py.replicas.keep_promises import PROMISE
from spegel_py.replicas.keep_requester import MISSED, KeepRequester
from spegel_py.replicas.lost_members import LostMembers
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_plan import ImageState
from spegel_py.replicas.replica_rules import ReplicaRules
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.base import ReplicaReason

IMAGE = Digest.of(b"image 7")
"""An image for which the asking node is the first in the rank."""
INDEX = Digest.of(b"index")
NAME = "registry.example/team/app:1"
OTHERS = [f"n{number}" for number in range(1, 6)]


class Others:
    """The other nodes: what they are asked, and what they answer."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.asked: list[tuple[str, KeepMessage]] = []
        self.answers: dict[str, KeepAnswer] = {}
        self.now = 1000.0
        self.own = self.network.requests(Peer("n0", "10.0.0.1", 1))
        for name in OTHERS:
            port = self.network.requests(Peer(name, "10.0.0.1", 1))
            port.set_handler(partial(self._answer, name))
        self.registry = CollectorRegistry()
        self.requester = KeepRequester(
            requests=self.own,
            floors=lambda: dict.fromkeys(self.own.partners(), 3),
            connected=lambda: list(self.own.partners()),
            rules=ReplicaRules(floor=3),
            metrics=ReplicaMetrics(self.registry),
            wall=lambda: self.now + 1e9,
            monotonic=lambda: self.now,
        )

    def _answer(self, name: str, _: str, raw: bytes) -> bytes:
        self.asked.append((name, decode_keep(raw)))
        return encode(self.answers.get(name, ImageTaking(0, 0)))

    async def scan(self, **fields: object) -> list[str]:
        """Scan twice, so that the image is not new, and return the nodes that were asked."""
        self.asked.clear()
        await self.requester.ask({IMAGE: state(**fields)})
        self.now += NEW
        await self.requester.ask({IMAGE: state(**fields)})
        return [name for name, _ in self.asked]

    def count(self, outcome: str) -> float:
        labels = {"reason": "floor", "outcome": outcome}
        return self.registry.get_sample_value("spegel_replica_keeps_total", labels) or 0.0


def state(**fields: object) -> ImageState:
    fields = {
        "manifest": IMAGE,
        "root": INDEX,
        "names": (NAME, "registry.example/team/app:2", "registry.example/other:3"),
        "pulled": {NAME: 5.0, "registry.example/team/app:2": 4.0, "registry.example/other:3": 3.0},
        "size": 1000,
        "is_pulled": True,
        "is_held": True,
        "idle": 60.0,
        **fields,
    }
    return ImageState(**fields)  # type: ignore[arg-type]


async def test_the_first_nodes_of_the_rank_are_asked_once() -> None:
    """The request tells all that a keeper needs, and a promise is waited for."""
    others = Others()
    assert await others.scan() == ranked_nodes(IMAGE, OTHERS, 2)
    [(_, request), _] = others.asked
    assert isinstance(request, KeepRequest)
    assert (request.manifest, request.root, request.size) == (IMAGE, INDEX, 1000)
    assert request.names == {NAME: 5.0, "registry.example/team/app:2": 4.0}
    assert request.used == 1e9 + others.now - 60.0
    assert others.count("taking") == 2
    assert await others.scan() == []
    others.now += PROMISE + 1
    assert await others.scan() == ranked_nodes(IMAGE, OTHERS, 2)


async def test_after_a_refusal_the_next_node_is_asked_at_once() -> None:
    """The refusing node is asked again after the time that it named."""
    others = Others()
    first, second, third = ranked_nodes(IMAGE, OTHERS, 3)
    others.answers[first] = KeepRefused(RefusalReason.DISK, 600.0)
    assert await others.scan() == [first, second, third]
    assert others.count("disk") == 1
    others.answers = {third: ImageKept()}
    assert await others.scan(replicas=frozenset({second, third})) == []
    others.now += 600.0
    assert await others.scan() == [first, second]


async def test_a_silent_node_is_replaced() -> None:
    """It is asked again soon, since it may be back."""
    others = Others()
    first, second, third = ranked_nodes(IMAGE, OTHERS, 3)
    others.network.handlers.pop(Peer(first, "10.0.0.1", 1))
    others.requester._floors = lambda: dict.fromkeys(OTHERS, 3)
    assert await others.scan() == [second, third]
    assert others.count("silent") == 1


async def test_an_image_without_a_name_is_not_asked_for() -> None:
    """A keeper could not fetch it."""
    assert await Others().scan(names=()) == []


async def test_a_floor_that_is_missed_for_long_is_told() -> None:
    """With the number of the nodes that refused, by reason."""
    others = Others()
    for name in OTHERS:
        others.answers[name] = KeepRefused(RefusalReason.FILTERED, 3600.0)
    await others.scan()
    assert not others.requester.missed
    others.now += MISSED
    await others.scan()
    [missed] = others.requester.missed
    assert missed.name == NAME
    assert str(missed) == "2 replicas are missing; refused: 5 × filtered"
    await others.scan(replicas=frozenset(OTHERS[:2]))
    assert not others.requester.missed
    assert others.registry.get_sample_value("spegel_replica_repair_seconds_count") == 1


async def test_the_last_use_of_an_image_is_the_latest_at_any_node() -> None:
    """A node that may know more and does not answer leaves it open."""
    others = Others()
    one = state(holders=frozenset(OTHERS[:2]), replicas=frozenset({OTHERS[2]}))
    for name, used in zip(OTHERS, (5.0, 9.0, 0.0), strict=False):
        others.answers[name] = ImageUsed(used)
    assert await others.requester.last_used(one) == 9.0
    assert {type(message) for _, message in others.asked} == {UsedRequest}
    others.answers = dict.fromkeys(OTHERS, ImageUsed(0.0))
    assert await others.requester.last_used(one) == 0.0
    others.answers[OTHERS[0]] = ImageKept()
    assert await others.requester.last_used(one) is None
    assert await others.requester.last_used(state()) == 0.0


@pytest.mark.parametrize(
    ("nodes", "lost", "is_braked"), [(5, 2, False), (10, 2, False), (10, 3, True), (100, 20, False)]
)
def test_many_losses_at_once_brake(nodes: int, lost: int, is_braked: bool) -> None:
    """Two lost nodes never brake; lost nodes are forgotten after half an hour."""
    members = LostMembers()
    names = [str(number) for number in range(nodes)]
    assert not members.is_braked(names, 0.0)
    assert members.is_braked(names[lost:], 10.0) == is_braked
    assert not members.is_braked(names[lost:], 1811.0)


async def test_a_hot_image_is_asked_for_as_such() -> None:
    """The keeper learns the heat, so that it does not take the replica for one too many."""
    others = Others()
    others.requester._rules = ReplicaRules(floor=1, ceiling=3)
    assert await others.scan(heat=17.0, extra=2) == ranked_nodes(IMAGE, OTHERS, 2)
    [(_, request), _] = others.asked
    assert isinstance(request, KeepRequest)
    assert (request.reason, request.heat) == (ReplicaReason.HEAT, 17.0)


async def test_the_heat_is_the_mean_of_those_that_see_the_image() -> None:
    """A node that does not answer is left out."""
    others = Others()
    first, second, third = ranked_nodes(IMAGE, OTHERS, 3)
    others.answers = {first: ImageUsed(0.0, 10.0), second: ImageUsed(0.0, 5.0)}
    others.network.handlers.pop(Peer(third, "10.0.0.1", 1))
    found = state(heat=3.0, holders=frozenset({first, second, third}))
    assert await others.requester.mean_heat(found) == 6.0
