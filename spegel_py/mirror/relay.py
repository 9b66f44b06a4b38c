"""One pull through peers: the first that answers gives the head, the body goes on at the next where one
breaks.

Log events, which tools read. At DEBUG, since `pull decided` tells the outcome: `relay started`
(digest, name, kind, method, peer, addr, offset), `relay continued` (the same, from another peer),
`relay spread` (digest, name, kind, method, offset; from several at once from there on), and at the
end `relay finished` (digest, name, kind, method, total, outcome, attempts) or, where no peer gave a
first byte, `relay missed` (the same without total). At INFO: `peer failed` (key, peer, addr, error,
outcome, offset). `attempts` is a list of {peer, addr, offset, bytes, ms, outcome, hedge, in_flight},
in the order in which they began.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from spegel_py.errors import RangeInvalid
from spegel_py.mirror.asking import Asking
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.budget import Budget
from spegel_py.mirror.following import Following
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.opening import WHOLE, Opened, Opening, RelayHead
from spegel_py.mirror.passage import Extent, Passage
from spegel_py.mirror.sizes import Sizes
from spegel_py.mirror.spread import Spreading
from spegel_py.mirror.verify import Verification, VerifyingSink
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptRecord, ContentSource, RelayOutcome
from spegel_py.transfer.base import Sink

log = structlog.get_logger(__name__)


class Relay:
    """The answer of peers to one request. Mirror.fetch opens and closes it; `head` is known once it is open.

    A large blob is verified on its way if `verification` wants it, and it is asked for from its first byte to its last.
    """

    _opened: Opened

    def __init__(
        self,
        *,
        pull: PullRequest,
        asking: Asking,
        metrics: MirrorMetrics,
        verification: Verification,
        size: int | None,
        sizes: Sizes,
        budget: Budget,
        spreading: Spreading | None = None,
        max_age: float = math.inf,
        following: Following | None = None,
    ) -> None:
        self._pull = pull
        self._following = following
        self._opening = Opening(
            pull=pull,
            asking=asking,
            size=size,
            sizes=sizes,
            budget=budget,
            continued=self._continued,
            max_age=max_age,
        )
        self._asking = asking
        self._metrics = metrics
        self._verification = verification
        self._spreading = spreading
        self._is_open = False
        self._sink: Sink | None = None
        self._outcome = RelayOutcome.CLIENT_GONE  # until something else is known

    def __repr__(self) -> str:
        return f"<Relay of {self._pull.key}: {self._sent} bytes, {self._outcome}>"

    @property
    def head(self) -> RelayHead:
        return self._opened.head

    @property
    def attempts(self) -> list[AttemptRecord]:
        """The requests to peers so far, in the order in which they began."""
        return [attempt.record() for attempt in self._asking.attempts.made]

    async def open(self, *, within: float) -> bool:
        """Find a peer that answers; False if there is none in that many seconds.

        Raises RangeInvalid if a peer says that the content is too short.
        """
        opened = None
        try:
            async with asyncio.timeout(within):
                opened = await self._opening.find()
        except TimeoutError:
            log.debug("no peer in time", key=self._pull.key)
        except RangeInvalid:
            self._outcome = RelayOutcome.RANGE
            raise
        if opened is None:
            self._outcome = RelayOutcome.MISSED
            return False
        self._opened, self._is_open = opened, True
        if self._pull.head:
            self._outcome = RelayOutcome.COMPLETE
        self._log(
            "relay started",
            peer=self.head.peer.id,
            addr=self.head.peer.authority,
            offset=self.head.start,
        )
        return True

    async def send(self, sink: Sink) -> bool:
        """Send the body; False if it ended short, since no peer is left. Raises ClientGone."""
        self._sink = sink
        if self._opened.body is not None:
            await sink.write(self._opened.body)
            self._forget_body()
        elif self._opened.attempt is not None:
            await self._pass_on(self._opened.attempt, sink)
        complete = self._sent == self.head.length
        self._outcome = RelayOutcome.COMPLETE if complete else RelayOutcome.CUT
        return complete

    async def close(self) -> None:
        """Hang up on peers that are still sending, and log how it went."""
        attempts = self._asking.attempts
        if self._is_open and self._sink is not None and self._sent == self.head.length:
            self._outcome = (
                RelayOutcome.COMPLETE
            )  # a client may leave with the last byte, before it is known that it has it
            await attempts.succeed_all()
        await attempts.close()
        self._forget_body()
        outcome, made = self._outcome.value, [attempt.as_json() for attempt in self.attempts]
        if self._is_open:
            self._log("relay finished", total=self._sent, outcome=outcome, attempts=made)
        else:
            self._log("relay missed", outcome=outcome, attempts=made)

    def _forget_body(self) -> None:
        """Let go of the body, and of the memory that it took: this object may stay until a garbage collection."""
        if self._is_open:
            self._opened = replace(self._opened, body=None)
        self._opening.release()

    async def _pass_on(self, first: Attempt, sink: Sink) -> None:
        head = self.head
        is_whole = head.length == head.size
        if is_whole and (head.size <= WHOLE or self._verification.wants(head.digest)):
            sink = VerifyingSink(sink, digest=head.digest, size=head.size, verified=self._verified)
        passage = Passage(
            extent=Extent(head.start, head.length, head.size),
            asking=self._asking,
            request=partial(self._opening.request, size=head.size),
            continued=self._continued,
            spread=self._spread,
            **self._manner(first),
        )
        await passage.run(first, sink)
        if is_whole and self._sent == head.size:
            self._verification.passed_on(head.digest)

    def _manner(self, first: Attempt) -> dict[str, Any]:
        """Return how slow peers are dealt with: of what is in flight the steward decides."""
        if self._following is not None and self._following.stall(first.peer) is not None:
            return {"patience": self._following.patience, "is_slow": self._following.is_slow}
        return {"spreading": self._spreading}

    def _continued(self, attempt: Attempt) -> None:
        self._metrics.resumed()
        self._log(
            "relay continued",
            peer=attempt.peer.id,
            addr=attempt.peer.authority,
            offset=attempt.offset,
        )

    def _spread(self, offset: int) -> None:
        self._metrics.spread()
        self._log("relay spread", offset=offset)

    def _verified(self, is_right: bool) -> None:
        self._metrics.verified(ContentSource.PEER, is_right=is_right)

    @property
    def _sent(self) -> int:
        return self._sink.sent if self._sink is not None else 0

    def _log(self, event: str, **fields: object) -> None:
        pull = self._pull
        digest = self.head.digest if self._is_open else pull.digest
        log.debug(
            event,
            digest=str(digest) if digest else None,
            name=pull.name,
            kind=pull.kind.name.lower(),
            method="HEAD" if pull.head else "GET",
            **fields,
        )
