"""One pull from peers: look up the holders, ask by weighted random choice, relay the answer.

The first usable answer gives the head (`first_response`). The body goes on at the next peer where
one breaks (`body_relay`). If no peer gives the content in time, the client gets its 404.

Log events, which tools read. At DEBUG, since `pull decided` tells the outcome: `relay started`
(digest, name, kind, method, peer, addr, offset), `relay continued` (the same, from another peer),
`relay spread` (digest, name, kind, method, offset; from several peers from there on), and at the
end `relay finished` (digest, name, kind, method, total, outcome, attempts) or, where no peer gave a
first byte, `relay missed` (the same without total). At INFO: `peer failed` (key, peer, addr, error,
outcome, offset). `attempts` is a list of {peer, addr, offset, bytes, ms, outcome, hedge,
in_flight}, in the order in which they began.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from random import Random

import structlog

from spegel_py.errors import RangeInvalid, RouterUnavailable
from spegel_py.mirror.attempts import Attempt, Attempts
from spegel_py.mirror.body_relay import BodyRelay, Extent
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.content_sizes import ContentSizes
from spegel_py.mirror.first_response import FirstResponse, RelayHead, UsableAnswer
from spegel_py.mirror.hedge_schedule import LatencyWindow
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.parent_source import ParentDirectory, ParentSource
from spegel_py.mirror.pull_state import PullState
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.selector import PeerSelector
from spegel_py.mirror.slow_peers import ParallelSettings
from spegel_py.mirror.tag_book import TagBook
from spegel_py.mirror.verification import (
    MAX_BUFFERED,
    MemoryBudget,
    VerificationPolicy,
    Verify,
    VerifyingSink,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.outcomes import AttemptRecord, ContentSource, RelayOutcome
from spegel_py.routing.base import Router
from spegel_py.telemetry.pull_record import PullContext
from spegel_py.telemetry.tracing import NO_SPAN
from spegel_py.transfer.base import Deadlines, Sink, Upstream

log = structlog.get_logger(__name__)

MAX_PEERS = 8
"""Peers asked for one pull.

The deadlines leave no time for more, and a crowd of dead records is one fault.
"""


class Mirror:
    """Fetches content from peers that this node does not hold.

    Args:
        router: finds the peers that hold the content.
        upstream: opens content at a peer.
        peers: peers asked for one pull, at most.
        verify: which blobs too large for memory are verified.
        parallel: when a body is fetched from several peers in parallel; None is never.
        parents: assigns parents for content that no peer holds yet, None without in-flight sharing.
        router_name: a label of the metrics.
        expected: returns the bytes that this node's runtime expects of a blob, None if it does not
            pull that blob.
        tags: judges the tags that peers answer; None to believe every one.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        router: Router,
        upstream: Upstream,
        metrics: MirrorMetrics,
        deadlines: Deadlines,
        scores: Scores,
        random: Random,
        peers: int = MAX_PEERS,
        verify: Verify = Verify.OFF,
        parallel: ParallelSettings | None = None,
        parents: ParentDirectory | None = None,
        router_name: str = "libp2p",
        expected: Callable[[Digest], Awaitable[int | None]] | None = None,
        tags: TagBook | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._upstream = upstream
        self._metrics = metrics
        self._deadlines = deadlines
        self._scores = scores
        self._latencies = LatencyWindow()
        self._random = random
        self._peers = peers
        self._verification = VerificationPolicy(verify=verify, random=random, clock=clock)
        self._sizes = ContentSizes()
        self._memory = MemoryBudget()
        self._parallel = parallel
        self._parents = parents
        self._router_name = router_name
        self._expected = expected
        self._tags = tags
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Mirror over {self._router!r}, {self._scores!r}>"

    async def has_holder(self, pull: PullRequest) -> bool:
        """Return True if a peer has the content, or a tag of any age."""
        try:
            async with asyncio.timeout(self._deadlines.resolve):
                async for _ in self._router.lookup(pull.key, limit=1):
                    return True
        except (TimeoutError, RouterUnavailable):
            pass
        return False

    @asynccontextmanager
    async def fetch(
        self,
        pull: PullRequest,
        *,
        max_age: float = math.inf,
        context: PullContext | None = None,
        follows: bool = True,
    ) -> AsyncIterator[Relay]:
        """Give an open relay of the content, which the caller sends; leaving the context ends it.

        Args:
            pull: the client's request.
            max_age: seconds ago at which a tag may have been seen at its registry, at most.
            context: gets the number of peers found and the attempts at the end. Each attempt's span
                is a child of its span.
            follows: False to ask only peers that hold the whole content, no peer that is still
                pulling it.

        Raises:
            ManifestUnknown, BlobUnknown: no peer gave the content in time; the detail has the
                number of peers tried as `attempts`.
            RangeInvalid: a peer answered that the range lies outside the content.
        """
        selector = PeerSelector(key=pull.key, scores=self._scores, random=self._random)
        attempts = Attempts(
            key=pull.key,
            upstream=self._upstream,
            selector=selector,
            scores=self._scores,
            latencies=self._latencies,
            metrics=self._metrics,
            clock=self._clock,
            span=context.span if context is not None else NO_SPAN,
            own_id=self._parents.id if self._parents is not None else None,
        )
        parent_source = self._parent_source(pull, selector, attempts) if follows else None
        candidates = Candidates(
            router=self._router,
            key=pull.key,
            limit=self._peers + self._scores.excluded_count(self._clock()),
            selector=selector,
            wait=self._deadlines.resolve,
            clock=self._clock,
            on_first=partial(self._metrics.resolved, self._router_name),
            max_age=max_age,
            find_parent=parent_source.find if parent_source else None,
        )
        is_quick = pull.head or pull.kind is Kind.MANIFEST
        within = self._deadlines.manifest if is_quick else self._deadlines.blob
        if parent_source:
            within = max(within, parent_source.max_silence)
        async with parent_source or nullcontext(), candidates:
            if parent_source and (size := self._sizes.of(pull.digest)):
                await parent_source.join_crowd(candidates, size)
            state = PullState(
                pull=pull,
                max_age=max_age,
                is_registry_away=context is not None and context.is_registry_away,
                tags=self._tags,
                expected_size=await self._expected_size(pull),
                candidates=candidates,
                attempts=attempts,
                parent_source=parent_source,
                digest=pull.digest,
                latencies=self._latencies,
                sizes=self._sizes,
                memory=self._memory,
                verification=self._verification,
                parallel=self._parallel,
                metrics=self._metrics,
                clock=self._clock,
            )
            relay = Relay(state)
            try:
                if not await relay.open(within=within):
                    raise pull.kind.unknown(
                        f"no peer could give {pull.key}", detail={"attempts": len(attempts.made)}
                    )
                yield relay
            finally:
                await relay.close()
                if context is not None:
                    context.lookup, context.attempts = candidates.lookup, relay.attempts

    def size_of(self, digest: Digest) -> int | None:
        """Return the size that the manifests passed on give for content; None if none names it."""
        return self._sizes.of(digest)

    async def _expected_size(self, pull: PullRequest) -> int | None:
        """Return the bytes that the content must have; None where that is unknown."""
        if pull.digest is None or pull.kind is Kind.MANIFEST:
            return None
        expected = await self._expected(pull.digest) if self._expected is not None else None
        return expected if expected is not None else self._sizes.of(pull.digest)

    def _parent_source(
        self, pull: PullRequest, selector: PeerSelector, attempts: Attempts
    ) -> ParentSource | None:
        """Return the source of parents, if the pull goes from some byte of a digest to its end.

        A tag may point at other content upstream, and parts out of order are not in a growing file.
        """
        start = 0 if pull.range is None else pull.range.first
        is_to_the_end = start is not None and (pull.range is None or pull.range.last is None)
        if self._parents is None or pull.digest is None or pull.head or not is_to_the_end:
            return None
        return ParentSource(
            parents=self._parents,
            selector=selector,
            attempts=attempts,
            digest=pull.digest,
            offset=start or 0,
            clock=self._clock,
        )


class Relay:
    """The peers' answer to one request; Mirror.fetch opens and closes it.

    `head` is known once the relay is open.
    """

    _answer: UsableAnswer

    def __init__(self, state: PullState) -> None:
        self._state = state
        self._first_response = FirstResponse(state)
        self._is_open = False
        self._sink: Sink | None = None
        self._outcome = RelayOutcome.CLIENT_GONE  # until another outcome is known

    def __repr__(self) -> str:
        return f"<Relay of {self._state.pull.key}: {self._sent} bytes, {self._outcome}>"

    @property
    def head(self) -> RelayHead:
        """The head of the answer."""
        return self._answer.head

    @property
    def attempts(self) -> list[AttemptRecord]:
        """The requests made to peers so far, in the order in which they began."""
        return [attempt.record() for attempt in self._state.attempts.made]

    async def open(self, *, within: float) -> bool:
        """Find a peer that answers; return False if there is none in that many seconds.

        Raises RangeInvalid if a peer answers that the content is too short.
        """
        answer, state = None, self._state
        try:
            async with asyncio.timeout(within):
                answer = await self._first_response.find()
                if answer is not None and not await self._is_witnessed(answer.head.digest):
                    self._first_response.release()
                    answer = None
        except TimeoutError:
            log.debug("no peer in time", key=state.pull.key)
        except RangeInvalid:
            self._outcome = RelayOutcome.RANGE
            raise
        if answer is None:
            self._outcome = RelayOutcome.MISSED
            return False
        self._answer, self._is_open, state.digest = answer, True, answer.head.digest
        if state.pull.head:
            self._outcome = RelayOutcome.COMPLETE
        state.log(
            "relay started",
            peer=self.head.peer.id,
            addr=self.head.peer.authority,
            offset=self.head.start,
        )
        return True

    async def _is_witnessed(self, digest: Digest) -> bool:
        """Return True if enough nodes saw the answered digest of a tag; for a digest, too."""
        state = self._state
        if (name := state.pull.name) is None or (tags := state.tags) is None:
            return True
        if tags.witnesses > 1:
            from spegel_py.mirror.tag_witnesses import has_witnesses

            if not await has_witnesses(state, tags, name, digest):
                return False
        tags.count_believed()
        return True

    async def send(self, sink: Sink) -> bool:
        """Send the body; return False if it ended short, without a peer left. Raises ClientGone."""
        self._sink = sink
        if self._answer.body is not None:
            await sink.write(self._answer.body)
            self._free_body()
        elif self._answer.attempt is not None:
            await self._relay_body(self._answer.attempt, sink)
        complete = self._sent == self.head.length
        self._outcome = RelayOutcome.COMPLETE if complete else RelayOutcome.CUT
        return complete

    async def close(self) -> None:
        """Hang up on peers that are still sending, and log the outcome."""
        state = self._state
        if self._is_open and self._sink is not None and self._sent == self.head.length:
            # a client may leave with the last byte, before it is known that it has that byte
            self._outcome = RelayOutcome.COMPLETE
            await state.attempts.succeed_all()
        await state.attempts.close()
        self._free_body()
        outcome, made = self._outcome.value, [attempt.as_json() for attempt in self.attempts]
        if self._is_open:
            state.log("relay finished", total=self._sent, outcome=outcome, attempts=made)
        else:
            state.log("relay missed", outcome=outcome, attempts=made)

    def _free_body(self) -> None:
        """Free the body and its memory: this object may stay until a garbage collection."""
        if self._is_open:
            self._answer = replace(self._answer, body=None)
        self._first_response.release()

    async def _relay_body(self, first: Attempt, sink: Sink) -> None:
        """Send a body that was not verified yet.

        A body that the client wants whole is verified on its way if it is small, or if the policy
        says so.
        """
        state, head = self._state, self.head
        is_whole = head.length == head.size
        if is_whole and (
            head.size <= MAX_BUFFERED or state.verification.should_verify(head.digest)
        ):
            sink = VerifyingSink(
                sink, digest=head.digest, size=head.size, on_verified=self._count_verified
            )
        await self._body_relay(first).run(first, sink)
        if is_whole and self._sent == head.size:
            state.verification.record_relayed(head.digest)

    def _body_relay(self, first: Attempt) -> BodyRelay:
        """Return the body's relay; the coordinator decides about slow parents."""
        state, parent_source = self._state, self._state.parent_source
        extent = Extent(self.head.start, self.head.length, self.head.size)
        if parent_source is not None and parent_source.is_parent(first.peer):
            policy = parent_source.slow_peer_policy
            return BodyRelay(state, extent, policy=policy, parent_source=parent_source)
        return BodyRelay(state, extent, parallel=state.parallel)

    def _count_verified(self, is_right: bool) -> None:
        self._state.metrics.verified(ContentSource.PEER, is_right=is_right)

    @property
    def _sent(self) -> int:
        return self._sink.sent if self._sink is not None else 0
