"""Answers a pull: it is parsed and filtered, then answered from here, a peer, or with a 404."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from spegel_py.errors import (
    ContentNotFound,
    OCIError,
    StoreUnavailable,
)
from spegel_py.inflight.participation import COMMIT_POLL, COMMIT_TIMEOUT
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.verification import MAX_BUFFERED
from spegel_py.oci.distribution import PullRequest, is_base
from spegel_py.oci.filters import Filters
from spegel_py.outcomes import AttemptOutcome, ContentSource, LocalState
from spegel_py.registry.answer_writer import AnswerWriter
from spegel_py.registry.askers import ASKER, Asker, Doorkeeper
from spegel_py.registry.background_pieces import Gate, open_gate, pieces
from spegel_py.registry.ingest_reader import IngestReader
from spegel_py.registry.local_content import LocalContent, LocalMatch, Provenance
from spegel_py.registry.metrics import ServerMetrics
from spegel_py.registry.multipart import Multipart, PartsSink
from spegel_py.registry.request_form import check_form
from spegel_py.registry.responses import Entity
from spegel_py.registry.tag_rules import TagRules
from spegel_py.registry.transfer_limits import TransferLimits, TransferSlot
from spegel_py.store.base import Content, Origins, Store
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.telemetry.pull_record import PullContext
from spegel_py.transfer.base import Sink
from spegel_py.transfer.sender import Sender

if TYPE_CHECKING:
    from spegel_py.registry.image_guard import ImageGuard

log = structlog.get_logger(__name__)


class PullHandler:
    """Answers all requests below `/v2/`.

    Args:
        store: this node's own content.
        sender: sends bodies from the store.
        mirror: fetches content from peers; None to serve only this node's own content.
        filters: pulls that are answered with 404, for clients and for peers.
        tags: the rules for tags.
        limits: admit the transfers to all clients but this node's own runtime.
        pull_log: records and counts each pull by a client.
        client_timeout: seconds after which a client that does not read is disconnected.
        doorkeeper: names the sender of a request. This node's own runtime also gets content that
            other nodes are still downloading.
        ingest_reader: serves content that is still being downloaded here, to peers that a
            coordinator sent; None to not do it.
        origins: returns the repositories that content came from. Content is excluded if filters
            exclude all of them.
        gate: is awaited before each piece that is sent in the background.
        default_registry: the registry of a client's request that names none; empty for none.
        guard: decides whether this node's runtime may have a private image; None without guard.
    """

    def __init__(
        self,
        *,
        store: Store,
        sender: Sender,
        mirror: Mirror | None,
        metrics: ServerMetrics,
        filters: Filters,
        tags: TagRules,
        limits: TransferLimits,
        pull_log: PullLog,
        client_timeout: float,
        doorkeeper: Doorkeeper,
        ingest_reader: IngestReader | None = None,
        origins: Origins | None = None,
        gate: Gate = open_gate,
        default_registry: str = "",
        guard: ImageGuard | None = None,
    ) -> None:
        self._guard = guard
        self._default_registry = default_registry
        self._store = store
        self._gate = gate
        self._provenance = (
            Provenance(origins=origins, filters=filters, guard=guard)
            if origins and (filters or guard)
            else None
        )
        self._local = LocalContent(store=store, provenance=self._provenance)
        self._sender = sender
        self._mirror = mirror
        self._filters = filters
        self._tags = tags
        self._limits = limits
        self._pull_log = pull_log
        self._doorkeeper = doorkeeper
        self._writer = AnswerWriter(metrics=metrics, limits=limits, client_timeout=client_timeout)
        self._ingest_reader = ingest_reader

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request below `/v2`. Raises OCIError."""
        check_form(request)
        if is_base(request.raw_path):
            return web.json_response({})
        pull = PullRequest.parse(
            method=request.method,
            target=request.raw_path,
            headers=request.headers.items(),
            default_registry=self._default_registry,
        )
        request[ASKER] = await self._doorkeeper.admit(request, is_mirrored=pull.mirrored)
        if not pull.client.is_background:
            self._limits.record_foreground()
        asked = self._tags.pin(request, pull)
        with self._pull_log.recording(pull, request.headers) as context:
            response = await self._answer(request, asked, context)
            self._tags.record_answer(request, pull, response, context)
            context.status = response.status
            return response

    async def _answer(
        self, request: web.Request, pull: PullRequest, context: PullContext
    ) -> web.StreamResponse:
        if self._filters.exclude(pull.label):
            raise pull.kind.unknown(f"{pull.label} is not mirrored", detail={"filtered": True})
        await self._tags.check(request[ASKER], pull)
        if self._guard is not None and request[ASKER] is not Asker.PEER:
            given = request.headers.get("Authorization", "")
            admitted = await self._guard.admit(pull, given)
            if admitted.digest is not None:
                self._tags.record_miss(pull)  # the registry itself has just named the digest
            pull = admitted
        if (response := await self._from_this_node(request, pull, context)) is not None:
            return response
        if request[ASKER] is Asker.PEER or self._mirror is None:
            raise pull.kind.unknown(f"{pull.key} is not here", detail={"attempts": 0})
        try:
            return await self._from_peers(request, pull, self._mirror, context)
        except OCIError:
            if not await self._tags.is_registry_away(pull, self._mirror, context):
                self._tags.record_refusal(request[ASKER], pull)
                raise
        context.is_registry_away = True
        log.info("registry away, tag of any age answered", key=pull.key)
        if (response := await self._from_this_node(request, pull, context)) is not None:
            return response
        return await self._from_peers(request, pull, self._mirror, context)

    async def _from_this_node(
        self, request: web.Request, pull: PullRequest, context: PullContext
    ) -> web.StreamResponse | None:
        """Answer from the store, or from an open ingest to a peer that a coordinator sent."""
        is_sent_here = pull.mirrored and pull.in_flight and not pull.ranges
        ingest_reader = self._ingest_reader if is_sent_here else None
        if ingest_reader is None or not ingest_reader.has(pull):
            response = await self._from_store(request, pull, context)
            if response is not None or ingest_reader is None:
                return response
        return await self._from_ingest(request, pull, ingest_reader, context)

    async def _from_store(
        self, request: web.Request, pull: PullRequest, context: PullContext
    ) -> web.StreamResponse | None:
        """Answer from this node's store; None if the content is not here, or the store is away."""
        async with AsyncExitStack() as stack:
            try:
                found = await self._local.find(pull)
                if self._tags.is_unusable(pull, found, context):
                    return None
                context.local = LocalState.HELD
                if pull.head:
                    return self._writer.answer_head(
                        pull, self._entity(pull, found, found.size), ContentSource.LOCAL, context
                    )
                content = await stack.enter_async_context(self._store.open(found.digest))
            except OCIError:  # the content is here, but of the other kind
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
        found: LocalMatch,
        content: Content,
        context: PullContext,
    ) -> web.StreamResponse:
        entity = self._entity(pull, found, content.size)
        to_peer = request[ASKER] is not Asker.RUNTIME

        async def send(sink: Sink) -> None:
            try:
                for span in entity.spans:
                    parts = entity.sink(sink, span)
                    async for start, length in pieces(pull.client, span, self._gate):
                        await self._sender.send(content, start, length, parts, to_peer=to_peer)
            except StoreUnavailable as error:
                log.warning("content broke off", digest=str(found.digest), error=str(error))

        with self._writer.admitted(request, pull) as slot:
            return await self._writer.send(
                request, pull, entity, ContentSource.LOCAL, send, context, slot
            )

    async def _from_ingest(
        self,
        request: web.Request,
        pull: PullRequest,
        ingest_reader: IngestReader,
        context: PullContext,
    ) -> web.StreamResponse | None:
        """Answer a peer with content that this node's runtime is downloading; None if it is not."""
        async with AsyncExitStack() as stack:
            try:
                found, ingest = await stack.enter_async_context(ingest_reader.find(pull))
                if self._provenance is not None:
                    await self._provenance.check(pull, found.digest)
            except ContentNotFound:  # it may have been committed meanwhile
                return await self._from_commit(request, pull, ingest_reader, context)
            except StoreUnavailable as error:
                log.debug("cannot follow what is written", key=pull.key, error=str(error))
                return None
            context.local = LocalState.GROWING
            entity = replace(
                self._entity(pull, found, found.size), source=ingest_reader.source_of(found.digest)
            )

            async def send(sink: Sink) -> None:
                try:
                    await self._sender.send_growing(ingest, entity.start, entity.length, sink)
                except StoreUnavailable as error:
                    log.info(
                        "growing content broke off", digest=str(found.digest), error=str(error)
                    )

            with self._writer.admitted(request, pull, grows=True) as slot:
                return await self._writer.send(
                    request, pull, entity, ContentSource.LOCAL, send, context, slot
                )

    async def _from_commit(
        self,
        request: web.Request,
        pull: PullRequest,
        ingest_reader: IngestReader,
        context: PullContext,
    ) -> web.StreamResponse | None:
        """Answer from the store, once the runtime has committed the content there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + COMMIT_TIMEOUT
        while (response := await self._from_store(request, pull, context)) is None:
            if not ingest_reader.is_committing(pull) or loop.time() >= end:
                return None
            await asyncio.sleep(COMMIT_POLL)
        return response

    def _entity(self, pull: PullRequest, found: LocalMatch, size: int) -> Entity:
        """Return the entity for content that is here, and record the time of a tag's answer."""
        start, length = pull.range.resolve(size) if pull.range else (0, size)
        multipart = _multipart(pull, found.media_type, size)
        return Entity(
            media_type=found.media_type,
            digest=found.digest,
            size=size,
            start=start,
            length=multipart.length if multipart else length,
            age=self._tags.record_local(pull, found),
            seen=self._tags.observation(pull, found),
            multipart=multipart,
        )

    async def _from_peers(
        self, request: web.Request, pull: PullRequest, mirror: Mirror, context: PullContext
    ) -> web.StreamResponse:
        with self._writer.relayed(request, pull) as slot:
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
        slot: TransferSlot | None,
    ) -> web.StreamResponse:
        self._tags.record_miss(pull)  # until a peer answers
        self._tags.check_peers(pull)
        max_age = self._tags.max_age(pull, context)
        if pull.ranges:
            return await self._parts_from_peers(request, pull, mirror, context, slot)
        follows = request[ASKER] is Asker.RUNTIME and not pull.client.is_background
        async with mirror.fetch(pull, max_age=max_age, context=context, follows=follows) as relay:
            head = relay.head
            seen = self._tags.record_relayed(pull, head)
            entity = Entity(
                media_type=head.media_type,
                digest=head.digest,
                size=head.size,
                start=head.start,
                length=head.length,
                peer=head.peer.id,
                age=head.age,
                seen=seen,
            )
            if pull.head:
                return self._writer.answer_head(pull, entity, ContentSource.PEER, context)
            context.peer = head.peer.id
            return await self._writer.send(
                request, pull, entity, ContentSource.PEER, relay.send, context, slot
            )

    async def _parts_from_peers(
        self,
        request: web.Request,
        pull: PullRequest,
        mirror: Mirror,
        context: PullContext,
        slot: TransferSlot | None,
    ) -> web.StreamResponse:
        """Answer several ranges of a blob.

        The ranges depend on the size, so the size is requested first. Then each range is a fetch
        of its own. Small content is fetched once, since it is verified as a whole.
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
                except OCIError as error:  # after the head, the body can only end short
                    log.debug("no peer has the next part", key=pull.key, error=error.message)
                    is_whole = False
                finally:
                    made = context.attempts = [*made, *context.attempts]
                if not is_whole:
                    break

        context.peer = head.peer.id
        return await self._writer.send(
            request, pull, entity, ContentSource.PEER, send, context, slot
        )


def _multipart(pull: PullRequest, media_type: str, size: int) -> Multipart | None:
    """Return the body of an answer to several ranges; None for other requests."""
    found = [each.resolve(size) for each in pull.ranges]
    return Multipart(media_type, size, found) if found else None
