"""The mirror: looks up who has it, asks by weighted random choice, relays, and gives up in time."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from random import Random

from spegel_py.mirror.asking import Asking
from spegel_py.mirror.attempts import Attempts
from spegel_py.mirror.budget import Budget
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.following import Following, FollowingSelector, Sources
from spegel_py.mirror.hedge import Latencies
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.relay import Relay
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.selector import WeightedSelector
from spegel_py.mirror.sizes import Sizes
from spegel_py.mirror.spread import Spreading
from spegel_py.mirror.verify import Verification, Verify
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.routing.base import Router
from spegel_py.telemetry.pull_record import PullContext
from spegel_py.telemetry.tracing import NO_SPAN
from spegel_py.transfer.base import Deadlines, Upstream

PEERS = 8
"""Peers asked for one pull at most: the deadlines leave no time for more, and a crowd of dead records is one fault."""


class Mirror:
    """Fetches from peers what this node does not hold, at most `peers` of them for one pull.

    Bodies are fetched from one peer at a time without a `spreading`. What no peer holds is taken from those that are
    getting it, if there are `sources` to say who does. `router_name` is a label of the metrics. `expected` says how
    many bytes of a blob this node's runtime expects, None where it does not pull it.
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
        peers: int = PEERS,
        verify: Verify = Verify.OFF,
        spreading: Spreading | None = None,
        sources: Sources | None = None,
        router_name: str = "libp2p",
        expected: Callable[[Digest], Awaitable[int | None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._upstream = upstream
        self._metrics = metrics
        self._deadlines = deadlines
        self._scores = scores
        self._latencies = Latencies()
        self._random = random
        self._peers = peers
        self._verification = Verification(verify=verify, random=random, clock=clock)
        self._sizes = Sizes()
        self._budget = Budget()
        self._spreading = spreading
        self._sources = sources
        self._router_name = router_name
        self._expected = expected
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Mirror over {self._router!r}, {self._scores!r}>"

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

        `max_age` is how many seconds ago a tag may have been seen at its registry. Without `follows` only peers that
        hold the whole content are asked, never those that are still pulling it. In `context` it is noted at the end
        how many peers were found, and which were asked; each that is asked has a span below its own.

        Raises ManifestUnknown or BlobUnknown, with the number of peers tried as `attempts` in its detail,
        when nobody gave it in time; RangeInvalid when a peer said that the range lies outside the content.
        """
        weighted = WeightedSelector(key=pull.key, scores=self._scores, random=self._random)
        selector = FollowingSelector(weighted)
        attempts = Attempts(
            key=pull.key,
            upstream=self._upstream,
            selector=selector,
            scores=self._scores,
            latencies=self._latencies,
            metrics=self._metrics,
            clock=self._clock,
            span=context.span if context is not None else NO_SPAN,
        )
        following = self._follow(pull, selector, attempts) if follows else None
        candidates = Candidates(
            router=self._router,
            key=pull.key,
            limit=self._peers + self._scores.left_out(self._clock()),
            selector=selector,
            wait=self._deadlines.resolve,
            clock=self._clock,
            found=partial(self._metrics.resolved, self._router_name),
            max_age=max_age,
            further=following.find if following else None,
        )
        asking = Asking(
            candidates=candidates, attempts=attempts, latencies=self._latencies, clock=self._clock
        )
        is_quick = pull.head or pull.kind is Kind.MANIFEST
        budget = self._deadlines.manifest if is_quick else self._deadlines.blob
        if following:
            attempts.in_flight = following
            budget = max(budget, following.silence)
        async with following or nullcontext(), candidates:
            if following and (size := self._sizes.of(pull.digest)):
                await following.line_up(candidates, size)
            relay = Relay(
                pull=pull,
                asking=asking,
                metrics=self._metrics,
                verification=self._verification,
                size=await self._size(pull),
                sizes=self._sizes,
                budget=self._budget,
                spreading=self._spreading,
                max_age=max_age,
                following=following,
            )
            try:
                if not await relay.open(within=budget):
                    raise pull.kind.unknown(
                        f"no peer could give {pull.key}", detail={"attempts": len(attempts.made)}
                    )
                yield relay
            finally:
                await relay.close()
                if context is not None:
                    context.lookup, context.attempts = candidates.lookup, relay.attempts

    async def _size(self, pull: PullRequest) -> int | None:
        """Return how many bytes the content has to have; None where nobody has said it."""
        if pull.digest is None or pull.kind is Kind.MANIFEST:
            return None
        said = await self._expected(pull.digest) if self._expected is not None else None
        return said if said is not None else self._sizes.of(pull.digest)

    def size_of(self, digest: Digest) -> int | None:
        """Return how long content is, by the manifests that were passed on; None if none has named it."""
        return self._sizes.of(digest)

    def _follow(
        self, pull: PullRequest, selector: FollowingSelector, attempts: Attempts
    ) -> Following | None:
        """Return who asks the steward for a pull; None of what is not fetched from some byte to its end.

        A tag may mean something else upstream, and parts out of order are not in a file that grows.
        """
        start = 0 if pull.range is None else pull.range.first
        is_to_the_end = start is not None and (pull.range is None or pull.range.last is None)
        if self._sources is None or pull.digest is None or pull.head or not is_to_the_end:
            return None
        return Following(
            sources=self._sources,
            selector=selector,
            digest=pull.digest,
            offset=start or 0,
            attempts=lambda: attempts.made,
            clock=self._clock,
        )
