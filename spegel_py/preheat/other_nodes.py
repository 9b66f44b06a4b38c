"""Asks other nodes for images, and follows them until they have each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from spegel_py.errors import PeerError
from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.local_preheat import ImageOrder
from spegel_py.preheat.node_choice import KnownNode
from spegel_py.preheat.preheat_fault import PreheatFault
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.preheat.preheat_messages import (
    MAX_WITHIN,
    ListedTag,
    PreheatAnswer,
    PreheatAsk,
    PreheatLook,
    PreheatResolve,
    decode_tag,
    encode_ask,
)
from spegel_py.routing.base import RequestResponse
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

LOOK = 1.0
"""Seconds between two looks at an image on another node."""

ANSWER = 3.0
"""Seconds for an answer; a live node answers in milliseconds."""

MAX_NAMED = 10_000
"""Nodes whose names are remembered."""

LOST = 60.0
"""Seconds without an answer after which a node counts as lost: more than a restart takes."""


class OtherNodes:
    """The other nodes, asked for images over the protocol of replicas."""

    def __init__(
        self,
        *,
        requests: RequestResponse,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._clock = clock
        self._monotonic = monotonic
        self._names: BoundedDict[str, str] = BoundedDict(limit=MAX_NAMED)

    def __repr__(self) -> str:
        return f"<OtherNodes {len(self._requests.partners())}>"

    def known(self) -> Collection[KnownNode]:
        """Return the nodes that can be asked, with the names of those that have answered."""
        return [
            KnownNode(one, peer.host, self._names.get(one, ""), peer.zone)
            for one, peer in self._requests.partners().items()
        ]

    async def preheat(
        self, node: str, job: str, order: ImageOrder, progress: NodeProgress, *, until: float
    ) -> None:
        """Have a node fetch an image, and follow it until it is over, as `progress` says.

        If this is cancelled, the node goes on. A node that was started again is asked again.

        Args:
            until: the Unix time at which the node gives up.
        """
        answered, is_asked = self._monotonic(), False
        while True:
            message: PreheatAsk | PreheatLook = PreheatLook(job, order.digest)
            if not is_asked:
                message = self._ask(job, order, until)
            try:
                answer = await self._request(node, message)
            except (PeerError, MessageError) as error:
                if self._monotonic() - answered >= LOST:
                    text = f"the node has not answered for {LOST:.0f} s: {error}"
                    progress.end(PreheatStage.LOST, why=PreheatFault.NO_ANSWER, error=text)
                    return
            else:
                answered, is_asked = self._monotonic(), answer.progress is not None
                if answer.name:
                    self._names[node] = answer.name
                if answer.progress is not None:
                    progress.copy(answer.progress)
                if progress.is_over:
                    return
            await asyncio.sleep(LOOK)

    async def resolve(self, node: str, image: Reference) -> ListedTag | None:
        """Return the digest that a node's registry gave it for a tag; None if it does not tell."""
        try:
            message = encode_ask(PreheatResolve(image))
            return decode_tag(await self._requests.request(node, message, timeout=ANSWER))
        except (PeerError, MessageError):
            return None

    async def drop(self, node: str, job: str, digest: Digest) -> None:
        """Have a node stop fetching and keeping an image of a job, if it can be reached."""
        with suppress(PeerError, MessageError):
            await self._request(node, PreheatLook(job, digest, is_drop=True))

    def _ask(self, job: str, order: ImageOrder, until: float) -> PreheatAsk:
        now = self._clock()
        return PreheatAsk(
            job=job,
            image=order.image,
            digest=order.digest,
            seen=order.seen,
            platform=order.platform,
            keep=max(0.0, order.expires - now),
            within=min(MAX_WITHIN, max(0.0, until - now)),
            rate=order.rate,
            credentials=order.credentials,
            depth=order.depth,
            pin=order.pin,
        )

    async def _request(self, node: str, message: PreheatAsk | PreheatLook) -> PreheatAnswer:
        raw = await self._requests.request(node, encode_ask(message), timeout=ANSWER)
        return PreheatAnswer.decode(raw)
