"""Taking content that is still in flight: who gives it is said by its steward, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from spegel_py.errors import PeerLoops
from spegel_py.inflight.in_flight_sharing import Parent
from spegel_py.inflight.messages import ParentFault
from spegel_py.inflight.rules import InFlightRules
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.patience import Patience
from spegel_py.mirror.scores import Outcome
from spegel_py.mirror.selector import PeerSelector
from spegel_py.oci.digest import Digest
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer

FEW = 8
"""Peers that hold the content, from which on each pull takes it from some of them: with so many a crowd is soon fed,
and the number of those that can feed it doubles with each that is."""

WORTH = 8 * 1024 * 1024
"""Bytes from which on it is worth the steward's answer, some milliseconds, to take content from another than those
that hold it: at 1 Gbit/s it takes 70 ms."""

_WHY = {
    AttemptOutcome.UNREACHABLE: ParentFault.DEAD,
    AttemptOutcome.NOT_FOUND: ParentFault.REFUSED,
    AttemptOutcome.REFUSED: ParentFault.REFUSED,
    AttemptOutcome.MISMATCH: ParentFault.REFUSED,
    AttemptOutcome.BUSY: ParentFault.BUSY,
    AttemptOutcome.STALLED: ParentFault.STALL,
    AttemptOutcome.SLOW: ParentFault.SLOW,
    AttemptOutcome.LOOPS: ParentFault.LOOP,
}


class Sources(Protocol):
    """Says who gives content that is in flight to the node `id`; all go by its `rules`."""

    @property
    def id(self) -> str: ...
    @property
    def rules(self) -> InFlightRules: ...
    async def find_parent(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        bad: str | None = None,
        why: ParentFault | None = None,
        within: float | None = None,
    ) -> Parent | None: ...
    async def find_parent_in_crowd(
        self, digest: Digest, *, offset: int, held: int
    ) -> Parent | None: ...
    def is_leader(self, digest: Digest) -> bool: ...


class FollowingSelector:
    """The PeerSelector port over another one, and before it over whom the steward names.

    A named peer is asked whatever is known of it, and what comes of that is the steward's to judge: in a chain the one
    that stalls is seldom the one at fault. Until it has ended nobody is asked beside it, since it may have to wait for
    the content itself, and those that hold it are to be spared.
    """

    def __init__(self, inner: PeerSelector) -> None:
        self._inner = inner
        self._named: Peer | None = None
        self._asked: set[Peer] = set()
        self._under_way: set[Peer] = set()

    def __repr__(self) -> str:
        return f"<FollowingSelector {self._named} before {self._inner!r}>"

    def name(self, peer: Peer) -> None:
        """Have this peer asked next."""
        self._named = peer

    @property
    def is_named(self) -> bool:
        """Whether somebody is named who was not asked yet."""
        return self._named is not None

    def was_named(self, peer: Peer) -> bool:
        return peer in self._asked

    def offer(self, peer: Peer) -> None:
        self._inner.offer(peer)

    def complete(self) -> None:
        self._inner.complete()

    def pick(self, now: float) -> Peer | None:
        if (peer := self._named) is None:
            return None if self._under_way else self._inner.pick(now)
        self._named = None
        self._asked.add(peer)
        self._under_way.add(peer)
        return peer

    def has_more(self, now: float) -> bool:
        return self._named is not None or (not self._under_way and self._inner.has_more(now))

    def record(self, peer: Peer, outcome: Outcome, now: float) -> None:
        if peer in self._under_way:
            self._under_way.discard(peer)
        else:
            self._inner.record(peer, outcome, now)


class Following:
    """Asks the steward for one pull, whose runtime has the first `offset` bytes already. An async context manager.

    A runtime that got nothing for as long as it may be left in silence is left to itself.
    """

    def __init__(
        self,
        *,
        sources: Sources,
        selector: FollowingSelector,
        digest: Digest,
        offset: int,
        attempts: Callable[[], Sequence[Attempt]],
        clock: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._selector = selector
        self._digest = digest
        self._offset = offset
        self._attempts = attempts
        self._clock = clock
        self._got = (offset, clock())  # how far it was when it was looked at last, and since when
        self._stalls: dict[Peer, float] = {}
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Following {self._digest}: {list(self._stalls)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    @property
    def silence(self) -> float:
        """Seconds without a byte after which the runtime is left to itself."""
        return self._sources.rules.max_silence

    @property
    def patience(self) -> Patience:
        """How slow a source must be for the steward to be asked whether it is the one at fault."""
        return Patience(min_rate=self._sources.rules.slow_rate, window=self._sources.rules.stall)

    def stall(self, peer: Peer) -> float | None:
        """Return after how many silent seconds another source is asked for; None of a peer that was not named."""
        return self._stalls.get(peer)

    def check(self, answer: PeerAnswer) -> None:
        """Refuse a source that takes the content from here: two stewards may have said so before one of them was gone.

        Rings of more nodes are found by their silence. Raises PeerLoops.
        """
        if answer.source == self._sources.id:
            raise PeerLoops("the peer takes it from here")

    async def line_up(self, candidates: Candidates, size: int) -> None:
        """Have somebody asked who takes the `size` bytes from one of those that hold them, where the steward says so.

        A few that hold content cannot feed a crowd: each gets a chain of nodes instead, the next fed by the one before.
        """
        if size - self._offset < WORTH:
            return
        holders = await candidates.found_all(self._sources.rules.crowd_answer)
        if 0 < holders < FEW:
            source = await self._sources.find_parent_in_crowd(
                self._digest, offset=self._offset, held=holders
            )
            if source is not None:
                self._name(source)

    async def find(self) -> bool:
        """Have the next source asked; False if the runtime is to go upstream."""
        bad, why = self._complaint()
        if (within := self._patience()) <= 0:
            return False
        source = await self._sources.find_parent(
            self._digest, offset=self._got[0], bad=bad, why=why, within=within
        )
        if source is not None:
            self._name(source)
        return source is not None

    def is_slow(self, sent: int) -> bool:
        """Note that what comes is slow, `sent` bytes of the body so far; say whether to leave who gives it.

        The steward is asked meanwhile: it may know of a better source, or have this node lead. Most often it knows that
        the source waits itself.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(
                self._ask_for_better(sent), name=f"better source of {self._digest}"
            )
        return self._selector.is_named or self._sources.is_leader(self._digest)

    async def _ask_for_better(self, sent: int) -> None:
        under_way = [each for each in self._attempts() if each.result is None and each.is_open]
        if not under_way:
            return
        giver = under_way[-1].peer
        source = await self._sources.find_parent(
            self._digest, offset=self._offset + sent, bad=giver.id, why=ParentFault.SLOW
        )
        if source is not None and source.peer != giver:
            self._name(source)

    def _name(self, source: Parent) -> None:
        self._stalls[source.peer] = source.stall
        self._selector.name(source.peer)

    def _patience(self) -> float:
        """Return for how many seconds more the runtime may be left without a byte."""
        now, reached = (
            self._clock(),
            max([self._offset, *(each.offset + each.bytes for each in self._attempts())]),
        )
        if reached > self._got[0]:
            self._got = (
                reached,
                max(self._last_byte(each, now) for each in self._attempts() if each.bytes),
            )
        return self._got[1] + self._sources.rules.max_silence - now

    def _last_byte(self, attempt: Attempt, now: float) -> float:
        silent = (
            self._stalls.get(attempt.peer, 0.0) if attempt.result is AttemptOutcome.STALLED else 0.0
        )
        return (attempt.ended or now) - silent

    def _complaint(self) -> tuple[str | None, ParentFault | None]:
        """Return who was the last source, and what was wrong with it; nothing where it was nobody's fault."""
        named = [each for each in self._attempts() if self._selector.was_named(each.peer)]
        if not named or (result := named[-1].result) is None or (why := _WHY.get(result)) is None:
            return None, None
        return named[-1].peer.id, ParentFault.SHORT if why is ParentFault.DEAD and named[
            -1
        ].bytes else why
