"""The peers that a pull asks while its coordinator names parents."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from spegel_py.inflight.in_flight_sharing import Parent
from spegel_py.inflight.messages import ParentFault
from spegel_py.inflight.rules import InFlightRules
from spegel_py.mirror.scores import AttemptResult, Scores
from spegel_py.mirror.selector import PeerSelector
from spegel_py.oci.digest import Digest
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer
from tests.unit.mirror.lab import LARGE, ME, MemorySink, blob, start_lab
from tests.unit.mirror.peers import FakePeer

HOLDER, SOURCE = Peer("holder", "10.0.0.1", 5000), Peer("source", "10.0.0.2", 5000)


def selector() -> tuple[PeerSelector, Scores]:
    scores = Scores()
    made = PeerSelector(key="k", scores=scores, random=Random(1))
    made.offer(HOLDER)
    made.complete()
    return made, scores


def test_a_named_source_is_asked_first_and_alone() -> None:
    """Holders of the content are asked once the parent's attempt has ended."""
    made, _ = selector()
    made.name_parent(SOURCE, stall=3.0)
    assert made.has_more(0.0)
    assert made.pick(0.0) == SOURCE
    assert not made.has_more(0.0)
    assert made.pick(0.0) is None
    made.record(SOURCE, AttemptResult(AttemptOutcome.STALLED), 1.0)
    assert made.pick(1.0) == HOLDER


def test_a_source_may_be_named_while_another_gives() -> None:
    """So a slow parent is left for a better one."""
    made, _ = selector()
    made.name_parent(SOURCE, stall=3.0)
    made.pick(0.0)
    better = Peer("better", "10.0.0.3", 5000)
    made.name_parent(better, stall=3.0)
    assert made.has_named_parent
    assert made.pick(0.0) == better
    assert not made.has_named_parent


def test_what_a_named_source_does_is_nobodys_score() -> None:
    """A parent waits for other nodes, so its failure changes no score.

    A failure of a picked peer does.
    """
    made, scores = selector()
    made.name_parent(SOURCE, stall=3.0)
    made.pick(0.0)
    made.record(SOURCE, AttemptResult(AttemptOutcome.STALLED), 1.0)
    assert scores.of(SOURCE).failures == 0
    picked = made.pick(1.0)
    assert picked == HOLDER
    made.record(HOLDER, AttemptResult(AttemptOutcome.STALLED), 1.0)
    assert scores.of(HOLDER).failures == 1


def test_a_holder_that_was_named_before_counts_again_when_it_is_picked() -> None:
    """A peer is a parent for one request."""
    made, scores = selector()
    made.name_parent(HOLDER, stall=3.0)
    made.pick(0.0)
    made.record(HOLDER, AttemptResult(AttemptOutcome.STALLED), 0.0)
    assert made.pick(1.0) == HOLDER
    made.record(HOLDER, AttemptResult(AttemptOutcome.STALLED), 1.0)
    assert scores.of(HOLDER).failures == 1


@dataclass
class ScriptedSources:
    """Names these parents one after the other, and keeps the complaints."""

    named: list[Parent]
    rules: InFlightRules = field(default_factory=InFlightRules)
    id: str = ME.id
    complaints: list[tuple[str | None, ParentFault | None]] = field(default_factory=list)

    async def find_parent(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        bad: str | None = None,
        why: ParentFault | None = None,
        within: float | None = None,
    ) -> Parent | None:
        self.complaints.append((bad, why))
        return self.named.pop(0) if self.named else None

    async def find_parent_in_crowd(
        self, digest: Digest, *, offset: int, held: int
    ) -> Parent | None:
        return None

    def is_leader(self, digest: Digest) -> bool:
        return False


async def test_a_source_that_takes_it_from_here_is_left_at_once() -> None:
    """The coordinator gets a complaint about the ring.

    The next parent that it names gives the content.
    """
    ring, source = (
        FakePeer(LARGE, headers={"X-Spegel-Source": ME.id}),
        FakePeer(LARGE, headers={"X-Spegel-Source": "x"}),
    )
    async with ring.serve("ring") as first, source.serve("source") as second:
        sources = ScriptedSources([Parent(first, 3.0), Parent(second, 3.0)])
        async with start_lab(parents=sources) as lab, lab.mirror.fetch(blob(LARGE)) as relay:
            sink = MemorySink()
            assert await relay.send(sink)
    assert bytes(sink.taken) == LARGE
    assert lab.attempts() == {"loops": 1, "ok": 1}
    assert sources.complaints == [(None, None), ("ring", ParentFault.LOOP)]
