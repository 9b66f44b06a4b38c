"""Parents for one pull of content still in flight, as the coordinator names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from spegel_py.inflight.in_flight_sharing import Parent
from spegel_py.inflight.messages import ParentFault
from spegel_py.inflight.rules import InFlightRules
from spegel_py.mirror.attempts import Attempt, Attempts
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.selector import PeerSelector
from spegel_py.mirror.slow_peers import SlowPeerPolicy
from spegel_py.oci.digest import Digest
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer

ENOUGH_HOLDERS = 8
"""Holders from which on the coordinator is not asked: every pull gets the content from holders.

So many feed a crowd soon: each node that is fed can feed the next one, so their number doubles.
"""

MIN_CROWD_SIZE = 8 * 1024 * 1024
"""Bytes from which on a crowd gets content from other nodes than its holders.

The coordinator's answer takes some milliseconds; at 1 Gbit/s these bytes take 70 ms.
"""

_FAULTS = {
    AttemptOutcome.UNREACHABLE: ParentFault.DEAD,
    AttemptOutcome.NOT_FOUND: ParentFault.REFUSED,
    AttemptOutcome.TOO_OLD: ParentFault.REFUSED,
    AttemptOutcome.REFUSED: ParentFault.REFUSED,
    AttemptOutcome.MISMATCH: ParentFault.REFUSED,
    AttemptOutcome.BUSY: ParentFault.BUSY,
    AttemptOutcome.STALLED: ParentFault.STALL,
    AttemptOutcome.SLOW: ParentFault.SLOW,
    AttemptOutcome.LOOPS: ParentFault.LOOP,
}


class ParentDirectory(Protocol):
    """The node's side of in-flight sharing: assigns parents to the node `id`, under its `rules`."""

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


class ParentSource:
    """Asks the coordinator for one pull; the runtime has the first `offset` bytes already.

    A runtime that got no byte for `max_silence` is sent upstream. This is an async context manager.
    """

    def __init__(
        self,
        *,
        parents: ParentDirectory,
        selector: PeerSelector,
        attempts: Attempts,
        digest: Digest,
        offset: int,
        clock: Callable[[], float],
    ) -> None:
        self._parents = parents
        self._selector = selector
        self._attempts = attempts
        self._digest = digest
        self._offset = offset
        self._clock = clock
        self._progress = (offset, clock())  # bytes at the last check, and since when
        self._better: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ParentSource of {self._digest} from {self._offset}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._better is not None:
            self._better.cancel()
            await asyncio.wait({self._better})

    @property
    def max_silence(self) -> float:
        """Seconds without a byte after which the runtime is sent upstream."""
        return self._parents.rules.max_silence

    @property
    def slow_peer_policy(self) -> SlowPeerPolicy:
        """The speed below which the coordinator is asked whether the parent is at fault."""
        rules = self._parents.rules
        return SlowPeerPolicy(min_rate=rules.slow_rate, window=rules.stall)

    def is_parent(self, peer: Peer) -> bool:
        """Return True if the coordinator named this peer."""
        return self._selector.parent_stall(peer) is not None

    async def join_crowd(self, candidates: Candidates, size: int) -> None:
        """Let the coordinator choose between the few holders of the `size` bytes and a parent.

        A few holders cannot feed a crowd: each gets a chain of nodes instead, in which every node
        feeds the next one.
        """
        if size - self._offset < MIN_CROWD_SIZE:
            return
        holders = await candidates.count_within(self._parents.rules.crowd_answer)
        if 0 < holders < ENOUGH_HOLDERS:
            parent = await self._parents.find_parent_in_crowd(
                self._digest, offset=self._offset, held=holders
            )
            if parent is not None:
                self._selector.name_parent(parent.peer, stall=parent.stall)

    async def find(self) -> bool:
        """Have the next parent asked; return False if the runtime is to go upstream."""
        bad, why = self._complaint()
        if (within := self._silence_left()) <= 0:
            return False
        parent = await self._parents.find_parent(
            self._digest, offset=self._progress[0], bad=bad, why=why, within=within
        )
        if parent is not None:
            self._selector.name_parent(parent.peer, stall=parent.stall)
        return parent is not None

    def is_replaced(self, sent: int) -> bool:
        """Return True if the slow parent is to be left, after `sent` bytes of the body.

        The coordinator is asked in the background. It may name a better parent, or make this node
        the leader. Most often it knows that the parent only waits for its own parent.
        """
        if self._better is None or self._better.done():
            self._better = asyncio.create_task(
                self._find_better(sent), name=f"better source of {self._digest}"
            )
        return self._selector.has_named_parent or self._parents.is_leader(self._digest)

    async def _find_better(self, sent: int) -> None:
        under_way = [each for each in self._attempts.made if each.outcome is None and each.is_open]
        if not under_way:
            return
        current = under_way[-1].peer
        parent = await self._parents.find_parent(
            self._digest, offset=self._offset + sent, bad=current.id, why=ParentFault.SLOW
        )
        if parent is not None and parent.peer != current:
            self._selector.name_parent(parent.peer, stall=parent.stall)

    def _silence_left(self) -> float:
        """Return the seconds for which the runtime may still be left without a byte."""
        now, made = self._clock(), self._attempts.made
        reached = max([self._offset, *(each.offset + each.bytes for each in made)])
        if reached > self._progress[0]:
            last_byte = max(self._last_byte(each, now) for each in made if each.bytes)
            self._progress = (reached, last_byte)
        return self._progress[1] + self.max_silence - now

    def _last_byte(self, attempt: Attempt, now: float) -> float:
        """Return the time of an attempt's last byte: a stalled parent was silent before its end."""
        is_stalled = attempt.outcome is AttemptOutcome.STALLED
        silent = (self._selector.parent_stall(attempt.peer) or 0.0) if is_stalled else 0.0
        return (attempt.ended or now) - silent

    def _complaint(self) -> tuple[str | None, ParentFault | None]:
        """Return the last parent and its fault; None and None where it is not to blame."""
        named = [each for each in self._attempts.made if self._selector.was_parent(each.peer)]
        if not named or (outcome := named[-1].outcome) is None:
            return None, None
        last, fault = named[-1], _FAULTS.get(outcome)
        if fault is None:
            return None, None
        if fault is ParentFault.DEAD and last.bytes:
            fault = ParentFault.SHORT
        return last.peer.id, fault
