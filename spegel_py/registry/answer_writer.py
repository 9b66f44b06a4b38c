"""Sends the head and the body of an answer, within the limits on transfers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

import structlog
from aiohttp import web

from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.outcomes import ContentSource
from spegel_py.registry import responses
from spegel_py.registry.metrics import ServerMetrics
from spegel_py.registry.proof_gate import PROVEN
from spegel_py.registry.responses import Entity
from spegel_py.registry.transfer_limits import TransferLimits, TransferSlot
from spegel_py.telemetry.pull_record import PullContext
from spegel_py.transfer.base import ClientGone, Sink
from spegel_py.transfer.sink import ResponseSink

log = structlog.get_logger(__name__)

Send = Callable[[Sink], Awaitable[object]]
"""Sends a body to a sink. The body may end short: `sink.sent` has the number of bytes."""


def is_from_here(request: web.Request) -> bool:
    """Return True if a client connects from an address of this very host."""
    if (transport := request.transport) is None:
        return False
    client, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return bool(client and own and client[0] == own[0])


class AnswerWriter:
    """Writes answers to clients, and records in the context of a pull what was sent.

    Args:
        limits: admit the transfers to all clients but this node's own runtime.
        client_timeout: seconds after which a client that does not read is disconnected.
        node: the name by which this node's own runtime identifies itself.
    """

    def __init__(
        self, *, metrics: ServerMetrics, limits: TransferLimits, client_timeout: float, node: str
    ) -> None:
        self._metrics = metrics
        self._limits = limits
        self._client_timeout = client_timeout
        self._node = node

    def is_own_runtime(self, request: web.Request, pull: PullRequest) -> bool:
        """Return True if the client is known to be this node's own runtime.

        All nodes may be waiting for the download by the runtime of another node. A registry that
        made that runtime wait for the same download would stop the pull of the whole cluster until
        a deadline. So a client without a name counts as this node's own runtime only if it
        connects from an address of this very host.
        """
        if pull.node is not None:
            return pull.node == self._node
        return is_from_here(request)

    def counts_as_peer(self, request: web.Request, pull: PullRequest) -> bool:
        """Return True if the limits apply to this client: to all but this node's own runtime."""
        return pull.mirrored or not self.is_own_runtime(request, pull)

    def is_stranger(self, request: web.Request, pull: PullRequest) -> bool:
        """Return True for a client that is neither this node's own runtime nor a proven peer."""
        return PROVEN not in request and self.counts_as_peer(request, pull)

    def admitted(
        self, request: web.Request, pull: PullRequest, *, grows: bool = False
    ) -> AbstractContextManager[TransferSlot | None]:
        """Count a transfer to another node while it lasts. Raises Busy when entered.

        Manifests do not count.
        """
        if pull.kind is Kind.BLOB and self.counts_as_peer(request, pull):
            return self._limits.admit(
                request.remote or "",
                grows=grows,
                is_node=pull.mirrored,
                is_background=pull.client.is_background,
                proven=request.get(PROVEN, ""),
            )
        return nullcontext()

    def relayed(
        self, request: web.Request, pull: PullRequest
    ) -> AbstractContextManager[TransferSlot | None]:
        """Count a relayed transfer while it lasts. Raises Busy when entered.

        Transfers to this node's own runtime are tracked, but not limited.
        """
        if pull.kind is not Kind.BLOB or pull.head:
            return nullcontext()
        if self.counts_as_peer(request, pull):
            return self._limits.admit(request.remote or "", relays=True, is_node=False)
        return self._limits.relay(request.remote or "", is_background=pull.client.is_background)

    def answer_head(
        self, pull: PullRequest, entity: Entity, source: ContentSource, context: PullContext
    ) -> web.StreamResponse:
        """Return the answer to a HEAD."""
        context.source, context.digest = source, entity.digest
        return responses.content(pull, entity)

    async def send(
        self,
        request: web.Request,
        pull: PullRequest,
        entity: Entity,
        source: ContentSource,
        send: Send,
        context: PullContext,
        slot: TransferSlot | None,
    ) -> web.StreamResponse:
        """Send head and body, and record the bytes; close the connection after a short body."""
        response = responses.content(pull, entity)
        await response.prepare(request)  # raises if the client is gone: then there is no answer
        context.source, context.digest, context.length = source, entity.digest, entity.length
        context.status = response.status  # known before the body is sent
        sink = ResponseSink(request=request, response=response, timeout=self._client_timeout)
        context.progress = lambda: sink.sent
        if slot is not None:
            slot.reader = sink
        try:
            await send(sink)
        except ClientGone as error:
            context.left = True
            log.info("client gone", key=pull.key, sent=sink.sent, error=str(error))
        finally:
            self._metrics.sent(source, sink.sent)
            request[responses.SENT] = context.sent = sink.sent
            if not context.is_complete:  # a client may leave with the last byte
                response.force_close()
        return response
