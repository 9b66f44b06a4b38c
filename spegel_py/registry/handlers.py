"""The way of a request: parsed, filtered, answered from here, else from a peer, else with a 404."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import replace

import structlog
from aiohttp import web

from spegel_py.errors import (
    ContentNotFound,
    OCIError,
    RequestInvalid,
    StoreUnavailable,
    Unsupported,
)
from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.verification import MAX_BUFFERED
from spegel_py.oci.distribution import METHODS, Kind, PullRequest, is_base
from spegel_py.oci.filters import Filters
from spegel_py.outcomes import AttemptOutcome, ContentSource, LocalState
from spegel_py.registry import responses
from spegel_py.registry.limits import Limits, Slot
from spegel_py.registry.local import Found, Local
from spegel_py.registry.metrics import ServerMetrics
from spegel_py.registry.multipart import Multipart, PartsSink
from spegel_py.registry.provenance import Provenance
from spegel_py.registry.responses import Entity
from spegel_py.registry.underway import Underway
from spegel_py.store.base import Content, Origins, Store
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.telemetry.pull_record import PullContext
from spegel_py.transfer.base import ClientGone, Sink
from spegel_py.transfer.sender import Sender
from spegel_py.transfer.sink import ResponseSink

log = structlog.get_logger(__name__)

Send = Callable[[Sink], Awaitable[object]]
"""Sends a body, which may have to end short: the sink tells."""


class Pulls:
    """Answers everything below `/v2/`. `client_timeout` is for how many seconds a client may not read.

    A pull that `filters` exclude is answered with 404, here and for peers, and so is content of this node
    that came, as `origins` tell, from nowhere else. Of tags `freshness` says for how long they
    are answered; a peer is told how old they are, and decides for itself. In `pull_log` it is noted of each
    client's pull how it went, and counted from there. Peers that a coordinator sent here are answered with what
    is `underway` too, if that is given. This node's own runtime, which gives the name `node` as its own, is
    also sent content that other nodes are still pulling. `limits` admit the transfers of all other clients.
    """

    def __init__(
        self,
        *,
        store: Store,
        sender: Sender,
        mirror: Mirror | None,
        metrics: ServerMetrics,
        filters: Filters,
        freshness: Freshness,
        limits: Limits,
        pull_log: PullLog,
        client_timeout: float,
        node: str = "",
        underway: Underway | None = None,
        origins: Origins | None = None,
    ) -> None:
        self._store = store
        self._provenance = (
            Provenance(origins=origins, filters=filters) if filters and origins else None
        )
        self._local = Local(store=store, provenance=self._provenance)
        self._sender = sender
        self._mirror = mirror
        self._metrics = metrics
        self._filters = filters
        self._freshness = freshness
        self._limits = limits
        self._pull_log = pull_log
        self._client_timeout = client_timeout
        self._node = node
        self._underway = underway

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request below `/v2`. Raises OCIError."""
        if request.method not in METHODS:
            raise Unsupported(f"only {' and '.join(METHODS)} are served here")
        if request.body_exists:
            raise RequestInvalid(f"a {request.method} has no body here")
        if is_base(request.raw_path):
            return web.json_response({})
        pull = PullRequest.parse(
            method=request.method, target=request.raw_path, headers=request.headers.items()
        )
        with self._pull_log.recording(pull, request.headers) as context:
            response = await self._answer(request, pull, context)
            context.status = response.status
            return response

    async def _answer(
        self, request: web.Request, pull: PullRequest, context: PullContext
    ) -> web.StreamResponse:
        if self._filters.exclude(pull.label):
            raise pull.kind.unknown(f"{pull.label} is not mirrored", detail={"filtered": True})
        if pull.name and not self._freshness.ttl:
            raise pull.kind.unknown("tags are not mirrored", detail={"filtered": True})
        if (response := await self._from_this_node(request, pull, context)) is not None:
            return response
        if pull.mirrored or self._mirror is None:
            raise pull.kind.unknown(f"{pull.key} is not here", detail={"attempts": 0})
        return await self._from_peers(request, pull, self._mirror, context)

    async def _from_this_node(
        self, request: web.Request, pull: PullRequest, context: PullContext
    ) -> web.StreamResponse | None:
        """Answer from what is here, and a peer that was sent here from what comes in; None where it is neither."""
        is_sent_here = pull.mirrored and pull.in_flight and not pull.ranges
        underway = self._underway if is_sent_here else None
        if underway is None or not underway.has(pull):
            response = await self._from_here(request, pull, context)
            if response is not None or underway is None:
                return response
        return await self._while_it_grows(request, pull, underway, context)

    async def _from_here(
        self, request: web.Request, pull: PullRequest, context: PullContext
    ) -> web.StreamResponse | None:
        """Answer from this node's own content; None where it is not here, or the store is away."""
        async with AsyncExitStack() as stack:
            try:
                found = await self._local.find(pull)
                if self._is_too_old(pull, found, context):
                    return None
                context.local = LocalState.HELD
                if pull.head:
                    return self._answer_head(
                        pull, self._entity(pull, found, found.size), ContentSource.LOCAL, context
                    )
                content = await stack.enter_async_context(self._store.open(found.digest))
            except OCIError:  # it is here, but not as what it is asked for
                context.local = LocalState.HELD
                raise
            except ContentNotFound:
                context.local = LocalState.ABSENT
                return None
            except StoreUnavailable as error:
                context.local = LocalState.AWAY
                log.warning("store away", key=pull.key, error=str(error))
                return None
            pull = pull.within(content.size)
            return await self._send_content(request, pull, found, content, context)

    async def _send_content(
        self,
        request: web.Request,
        pull: PullRequest,
        found: Found,
        content: Content,
        context: PullContext,
    ) -> web.StreamResponse:
        entity = self._entity(pull, found, content.size)
        to_peer = self._counts_as_peer(request, pull)

        async def send(sink: Sink) -> None:
            try:
                for span in entity.spans:
                    parts = entity.sink(sink, span)
                    await self._sender.send(content, *span, parts, to_peer=to_peer)
            except StoreUnavailable as error:
                log.warning("content broke off", digest=str(found.digest), error=str(error))

        with self._admitted(request, pull) as slot:
            return await self._send(request, pull, entity, ContentSource.LOCAL, send, context, slot)

    async def _while_it_grows(
        self, request: web.Request, pull: PullRequest, underway: Underway, context: PullContext
    ) -> web.StreamResponse | None:
        """Answer a peer with what this node's runtime is fetching; None if it is not, or has just fetched it."""
        async with AsyncExitStack() as stack:
            try:
                found, ingest = await stack.enter_async_context(underway.find(pull))
                if self._provenance is not None:
                    await self._provenance.check(pull, found.digest)
            except ContentNotFound:  # it may have been committed since the store was asked
                return await self._from_here(request, pull, context)
            except StoreUnavailable as error:
                log.debug("cannot follow what is written", key=pull.key, error=str(error))
                return None
            context.local = LocalState.GROWING
            entity = replace(
                self._entity(pull, found, found.size), source=underway.source_of(found.digest)
            )

            async def send(sink: Sink) -> None:
                try:
                    await self._sender.send_growing(ingest, entity.start, entity.length, sink)
                except StoreUnavailable as error:
                    log.info(
                        "growing content broke off", digest=str(found.digest), error=str(error)
                    )

            with self._admitted(request, pull, grows=True) as slot:
                return await self._send(
                    request, pull, entity, ContentSource.LOCAL, send, context, slot
                )

    def _entity(self, pull: PullRequest, found: Found, size: int) -> Entity:
        """Return what a client is told of content that is here, and note as of when it was told a tag."""
        start, length = pull.range.resolve(size) if pull.range else (0, size)
        multipart = _multipart(pull, found.media_type, size)
        return Entity(
            media_type=found.media_type,
            digest=found.digest,
            size=size,
            start=start,
            length=multipart.length if multipart else length,
            age=self._note_seen(pull, self._seen(pull, found)),
            multipart=multipart,
        )

    def _admitted(
        self, request: web.Request, pull: PullRequest, *, grows: bool = False
    ) -> AbstractContextManager[Slot | None]:
        """Count a transfer to another node while it lasts; manifests are no transfers. Raises Busy on entering."""
        if pull.kind is Kind.BLOB and self._counts_as_peer(request, pull):
            return self._limits.admit(request.remote or "", grows=grows, is_node=pull.mirrored)
        return nullcontext()

    def _relayed(
        self, request: web.Request, pull: PullRequest
    ) -> AbstractContextManager[Slot | None]:
        """Count a transfer from a peer while it lasts, to whoever is not this node's own runtime. Raises Busy."""
        if pull.kind is not Kind.BLOB or pull.head:
            return nullcontext()
        if self._counts_as_peer(request, pull):
            return self._limits.admit(request.remote or "", relays=True, is_node=False)
        return self._limits.relay(request.remote or "")

    def _counts_as_peer(self, request: web.Request, pull: PullRequest) -> bool:
        """Return True if the limits are for this client: for all but the own runtime, whatever a header says."""
        return pull.mirrored or not self._is_own_runtime(request, pull)

    async def _from_peers(
        self, request: web.Request, pull: PullRequest, mirror: Mirror, context: PullContext
    ) -> web.StreamResponse:
        with self._relayed(request, pull) as slot:
            try:
                return await self._relay(request, pull, mirror, context, slot)
            except OCIError:
                if any(attempt.outcome is AttemptOutcome.BUSY for attempt in context.attempts):
                    self._limits.refused_by_a_peer()
                raise

    async def _relay(
        self,
        request: web.Request,
        pull: PullRequest,
        mirror: Mirror,
        context: PullContext,
        slot: Slot | None,
    ) -> web.StreamResponse:
        if pull.name is not None:
            self._freshness.record_miss(pull.name, time.time())  # until a peer answers
        max_age = self._freshness.ttl if pull.name else math.inf
        if pull.ranges:
            return await self._parts_from_peers(request, pull, mirror, context, slot)
        follows = self._is_own_runtime(request, pull)
        async with mirror.fetch(pull, max_age=max_age, context=context, follows=follows) as relay:
            head = relay.head
            self._note_seen(pull, None if pull.digest else time.time() - (head.age or 0))
            entity = Entity(
                media_type=head.media_type,
                digest=head.digest,
                size=head.size,
                start=head.start,
                length=head.length,
                peer=head.peer.id,
                age=head.age,
            )
            if pull.head:
                return self._answer_head(pull, entity, ContentSource.PEER, context)
            context.peer = head.peer.id
            return await self._send(
                request, pull, entity, ContentSource.PEER, relay.send, context, slot
            )

    async def _parts_from_peers(
        self,
        request: web.Request,
        pull: PullRequest,
        mirror: Mirror,
        context: PullContext,
        slot: Slot | None,
    ) -> web.StreamResponse:
        """Answer several ranges of a blob.

        Its size is asked for first, since the ranges depend on it. Then each range is a fetch of
        its own; small content is fetched once, since it is verified as a whole.
        """
        whole = replace(pull, ranges=())
        async with mirror.fetch(replace(whole, head=True), context=context, follows=False) as relay:
            head = relay.head
        pull = pull.within(head.size)
        if (multipart := _multipart(pull, head.media_type, head.size)) is None:
            return await self._relay(request, pull, mirror, context, slot)
        entity = Entity(
            media_type=head.media_type,
            digest=head.digest,
            size=head.size,
            start=0,
            length=multipart.length,
            peer=head.peer.id,
            multipart=multipart,
        )
        fetches = [whole]
        if head.size > MAX_BUFFERED:
            fetches = [replace(whole, range=each) for each in pull.ranges]

        async def send(sink: Sink) -> None:
            made = context.attempts
            for each in fetches:
                try:
                    async with mirror.fetch(each, context=context, follows=False) as part:
                        parts = PartsSink(sink, multipart=multipart, start=part.head.start)
                        is_whole = await part.send(parts)
                except OCIError as error:  # after the head nothing but a short body can be sent
                    log.debug("no peer has the next part", key=pull.key, error=error.message)
                    is_whole = False
                finally:
                    made = context.attempts = [*made, *context.attempts]
                if not is_whole:
                    break

        context.peer = head.peer.id
        return await self._send(request, pull, entity, ContentSource.PEER, send, context, slot)

    def _is_own_runtime(self, request: web.Request, pull: PullRequest) -> bool:
        """Return True if the client is known to be this node's own runtime.

        The runtime of another node may be the one whose download the others wait for. A registry that made it wait for
        that same download would stop the pull of the whole cluster until a deadline passes. So a client that gives no
        name counts as the own runtime only if it connects from an address of this very host.
        """
        if pull.node is not None:
            return pull.node == self._node
        if (transport := request.transport) is None:
            return False
        client, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        return bool(client and own and client[0] == own[0])

    def _seen(self, pull: PullRequest, found: Found) -> float | None:
        """Return when the tag that is pulled was last seen at its registry; None for a digest."""
        if pull.name is None or found.pulled is None:
            return None
        return self._freshness.last_seen(pull.name, found.pulled)

    def _is_too_old(self, pull: PullRequest, found: Found, context: PullContext) -> bool:
        """Say whether a tag's own copy is not to be answered to a client: its registry may know better."""
        seen, now = self._seen(pull, found), time.time()
        if seen is None or pull.mirrored or self._freshness.is_fresh(seen, now):
            return False
        context.local, context.age = LocalState.TOO_OLD, now - seen
        log.debug("tag too old", name=pull.name, seconds=round(now - seen))
        return True

    def _note_seen(self, pull: PullRequest, seen: float | None) -> float | None:
        """Note as of when a client is answered a tag, and return its age in seconds; None for a digest."""
        if pull.name is None or seen is None:
            return None
        if not pull.mirrored:
            self._freshness.record_answer(pull.name, seen)
        return time.time() - seen

    def _answer_head(
        self, pull: PullRequest, entity: Entity, source: ContentSource, context: PullContext
    ) -> web.StreamResponse:
        context.source, context.digest = source, entity.digest
        return responses.content(pull, entity)

    async def _send(
        self,
        request: web.Request,
        pull: PullRequest,
        entity: Entity,
        source: ContentSource,
        send: Send,
        context: PullContext,
        slot: Slot | None,
    ) -> web.StreamResponse:
        """Send head and body, and note what was sent; after a body that ends short the connection is closed."""
        response = responses.content(pull, entity)
        await response.prepare(
            request
        )  # raises where the client is gone: then nothing was answered
        context.source, context.digest, context.length = source, entity.digest, entity.length
        context.status = response.status  # known from here on, whatever becomes of the body
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
            if not context.is_complete:  # a client that leaves with the last byte has it all
                response.force_close()
        return response


def _multipart(pull: PullRequest, media_type: str, size: int) -> Multipart | None:
    """Return the body of an answer to several ranges within the content; None for others."""
    found = [each.resolve(size) for each in pull.ranges]
    return Multipart(media_type, size, found) if found else None
