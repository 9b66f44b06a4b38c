"""Sends the head and the body of an answer, within the limits on transfers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

import structlog
from aiohttp import web

from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.outcomes import ContentSource
from spegel_py.registry import responses
from spegel_py.registry.askers import ASKER, Asker
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


class AnswerWriter:
    """Writes answers to clients, and records in the context of a pull what was sent.

    Args:
        limits: admit the transfers to all clients but this node's own runtime.
        client_timeout: seconds after which a client that does not read is disconnected.
    """

    def __init__(
        self, *, metrics: ServerMetrics, limits: TransferLimits, client_timeout: float
    ) -> None:
        self._metrics = metrics
        self._limits = limits
        self._client_timeout = client_timeout

    def admitted(
        self, request: web.Request, pull: PullRequest, *, grows: bool = False
    ) -> AbstractContextManager[TransferSlot | None]:
        """Count a transfer to another node while it lasts. Raises Busy when entered.

        Manifests do not count.
        """
        if pull.kind is Kind.BLOB and (asker := request[ASKER]) is not Asker.RUNTIME:
            return self._limits.admit(
                request.remote or "",
                grows=grows,
                is_node=asker is Asker.PEER,
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
        if request[ASKER] is not Asker.RUNTIME:
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
