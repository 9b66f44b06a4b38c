"""One hedged hop: the peers asked, the time of the next one, and the end. On Trio with a virtual
clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio
from trio.testing import MockClock

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.libp2p.dht import FIRST_WAVE, HEDGE_DELAY, PATIENCE, query_closest


class Crowd:
    """Peers 0, 1, 2, … with answers and delays by number (seconds; infinity: never; negative: it
    fails)."""

    def __init__(
        self, delays: Sequence[float], answers: dict[int, list[str]] | None = None
    ) -> None:
        self.delays = delays
        self.answers = answers or {}
        self.asked: list[tuple[int, float]] = []
        self.found: list[str] = []
        self.took = 0.0

    async def ask(self, peer: int) -> list[str]:
        self.asked.append((peer, trio.current_time()))
        delay = self.delays[peer]
        if delay < 0:
            raise PeerUnreachable("no")
        if math.isinf(delay):
            await trio.sleep(2.0)
            raise PeerUnreachable("too slow")
        await trio.sleep(delay)
        return self.answers.get(peer, [])

    def run(self, *, enough: int = 99) -> Crowd:
        async def main() -> None:
            start = trio.current_time()
            self.asked.clear()
            await query_closest(list(range(len(self.delays))), self.ask, self._take(enough))
            self.took = trio.current_time() - start
            self.asked = [(peer, at - start) for peer, at in self.asked]

        trio.run(main, clock=MockClock(autojump_threshold=0))
        return self

    def _take(self, enough: int):  # type: ignore[no-untyped-def]
        def take(answer: str) -> bool:
            self.found.append(answer)
            return len(self.found) >= enough

        return take


def test_a_healthy_cluster_is_asked_once() -> None:
    """When the first wave answers, nobody else is asked, and the hop ends with its slowest
    answer."""
    crowd = Crowd([0.004, 0.005, 0.006, 0.004], {0: ["x"], 1: ["y"]}).run()
    assert sorted(peer for peer, _ in crowd.asked) == list(range(FIRST_WAVE))
    assert sorted(crowd.found) == ["x", "y"]
    assert crowd.took < 0.01


def test_a_miss_ends_with_the_first_wave() -> None:
    """Nobody knows it: the hop ends as soon as the first wave has said so."""
    crowd = Crowd([0.004] * 6).run()
    assert len(crowd.asked) == FIRST_WAVE
    assert crowd.took < 0.01


def test_a_silent_peer_is_hedged() -> None:
    """While a peer stays silent, the next closest is asked after the hedge delay, and its answer is
    enough."""
    crowd = Crowd([math.inf, 0.004, 0.004, 0.004], {3: ["x"]}).run()
    assert crowd.found == ["x"]
    asked_at = dict(crowd.asked)
    assert abs(asked_at[3] - (0.004 + HEDGE_DELAY)) < 0.001
    assert PATIENCE <= crowd.took < PATIENCE + 2 * HEDGE_DELAY


def test_the_closest_is_waited_for_although_others_have_answered() -> None:
    """The answer of a slow peer of the first wave counts if no other peer has a record."""
    crowd = Crowd([0.1, 0.004, 0.004, 0.004, 0.004, 0.004], {0: ["x"]}).run()
    assert crowd.found == ["x"]
    assert crowd.took < PATIENCE


def test_a_failure_brings_the_next_one_at_once() -> None:
    """A peer that refuses is replaced without waiting for the hedge."""
    crowd = Crowd([-1, 0.004, 0.004, 0.004], {3: ["x"]}).run()
    assert crowd.found == ["x"]
    assert dict(crowd.asked)[3] == 0.0


def test_enough_is_enough() -> None:
    """The hop ends with the first answer that is enough; slower peers are not waited for."""
    crowd = Crowd([0.004, 1.0, 1.0], {0: ["x"]}).run(enough=1)
    assert crowd.took < 0.01


def test_when_everybody_fails_it_ends() -> None:
    """With all peers failing the hop ends empty, after asking each once."""
    crowd = Crowd([-1] * 5).run()
    assert sorted(peer for peer, _ in crowd.asked) == [0, 1, 2, 3, 4]
    assert crowd.found == []


def test_alone_there_is_nobody_to_ask() -> None:
    """Without peers the hop ends at once."""
    assert Crowd([]).run().took == 0.0
