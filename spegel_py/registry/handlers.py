"""The way of a request: parsed, filtered, answered from here, else from a peer, else with a 404."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext

import structlog
from aiohttp import web

from spegel_py.errors import (
    ContentNotFound,
    OCIError,
    RangeInvalid,
    RequestInvalid,
    StoreUnavailable,
    Unsupported,
)
from spegel_py.mirror.fetch import Mirror
from spegel_py.mirror.freshness import Freshness
from spegel_py.oci.distribution import METHODS, Kind, PullRequest, is_base
from spegel_py.oci.filters import Filters
from spegel_py.registry import responses
from spegel_py.registry.limits import Limits
from spegel_py.registry.local import Found, Local
from spegel_py.registry.responses import Entity
from spegel_py.store.base import Content, Store
from spegel_py.telemetry.metrics import Metrics, Miss, Source
from spegel_py.transfer.base import ClientGone, Sink
from spegel_py.transfer.sender import Sender
from spegel_py.transfer.sink import ResponseSink

log = structlog.get_logger(__name__)

Send = Callable[[Sink], Awaitable[bool]]
"""Sends a body; False if it had to end short."""


class Pulls:
    """Answers everything below `/v2/`. `client_timeout` is for how many seconds a client may not read.

    A pull that `filters` exclude is answered with 404, here and for peers. Of tags `freshness` says for how long they
    are answered; a peer is told how old they are, and decides for itself. `limits` admit peers' transfers.
    """

    def __init__(
        self,
        *,
        store: Store,
        sender: Sender,
        mirror: Mirror | None,
        metrics: Metrics,
        filters: Filters,
        freshness: Freshness,
        limits: Limits,
        client_timeout: float,
    ) -> None:
        self._store = store
        self._local = Local(store=store)
        self._sender = sender
        self._mirror = mirror
        self._metrics = metrics
        self._filters = filters
        self._freshness = freshness
        self._limits = limits
        self._client_timeout = client_timeout

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request below `/v2`. Raises OCIError."""
        if request.method not in METHODS:
            raise Unsupported(f"only {' and '.join(METHODS)} are served here")
        if request.body_exists:
            raise RequestInvalid(f"a {request.method} has no body here")
        if is_base(request.raw_path):
            return web.json_response({})
        pull = PullRequest.parse(method=request.method, target=request.raw_path, headers=request.headers.items())
        try:
            return await self._answer(request, pull)
        except OCIError as error:
            self._count_miss(pull, _reason(error))
            raise

    async def _answer(self, request: web.Request, pull: PullRequest) -> web.StreamResponse:
        if self._filters.exclude(pull.label):
            raise pull.kind.unknown(f"{pull.label} is not mirrored", detail={"filtered": True})
        if pull.name and not self._freshness.ttl:
            raise pull.kind.unknown("tags are not mirrored", detail={"filtered": True})
        response = await self._from_here(request, pull)
        if response is not None:
            return response
        if pull.mirrored or self._mirror is None:
            raise pull.kind.unknown(f"{pull.key} is not here", detail={"attempts": 0})
        return await self._from_peers(request, pull, self._mirror)

    async def _from_here(self, request: web.Request, pull: PullRequest) -> web.StreamResponse | None:
        """Answer from this node's own content; None where it is not here, or the store is away."""
        async with AsyncExitStack() as stack:
            try:
                found = await self._local.find(pull)
                if self._is_too_old(pull, found):
                    return None
                if pull.head:
                    return self._answer_head(pull, self._entity(pull, found, found.size), "local")
                content = await stack.enter_async_context(self._store.open(found.digest))
            except ContentNotFound:
                return None
            except StoreUnavailable as error:
                log.warning("store away", key=pull.key, error=str(error))
                return None
            return await self._send_content(request, pull, found, content)

    async def _send_content(
        self, request: web.Request, pull: PullRequest, found: Found, content: Content
    ) -> web.StreamResponse:
        entity = self._entity(pull, found, content.size)

        async def send(sink: Sink) -> bool:
            try:
                await self._sender.send(content, entity.start, entity.length, sink, to_peer=pull.mirrored)
            except StoreUnavailable as error:
                log.warning("content broke off", digest=str(found.digest), error=str(error))
                return False
            return True

        with self._admitted(request, pull):
            return await self._send(request, pull, entity, "local", send)

    def _entity(self, pull: PullRequest, found: Found, size: int) -> Entity:
        """Return what a client is told of content that is here, and note as of when it was told a tag."""
        start, length = pull.range.resolve(size) if pull.range else (0, size)
        return Entity(
            media_type=found.media_type,
            digest=found.digest,
            size=size,
            start=start,
            length=length,
            age=self._note_seen(pull, self._seen(pull, found)),
        )

    def _admitted(self, request: web.Request, pull: PullRequest) -> AbstractContextManager[None]:
        """Count a transfer to another node while it lasts; manifests are no transfers. Raises Busy on entering."""
        if pull.mirrored and pull.kind is Kind.BLOB:
            return self._limits.admit(request.remote or "")
        return nullcontext()

    async def _from_peers(self, request: web.Request, pull: PullRequest, mirror: Mirror) -> web.StreamResponse:
        if pull.name is not None:
            self._freshness.missed(pull.name, time.time())  # until a peer answers
        async with mirror.fetch(pull, max_age=self._freshness.ttl if pull.name else math.inf) as relay:
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
                return self._answer_head(pull, entity, "peer")
            return await self._send(request, pull, entity, "peer", relay.send)

    def _seen(self, pull: PullRequest, found: Found) -> float | None:
        """Return when the tag that is pulled was last seen at its registry; None for a digest."""
        if pull.name is None or found.pulled is None:
            return None
        return self._freshness.seen(pull.name, found.pulled)

    def _is_too_old(self, pull: PullRequest, found: Found) -> bool:
        """Say whether a tag's own copy is not to be answered to a client: its registry may know better."""
        seen, now = self._seen(pull, found), time.time()
        if seen is None or pull.mirrored or self._freshness.is_fresh(seen, now):
            return False
        log.info("tag too old", name=pull.name, seconds=round(now - seen))
        return True

    def _note_seen(self, pull: PullRequest, seen: float | None) -> float | None:
        """Note as of when a client is answered a tag, and return its age in seconds; None for a digest."""
        if pull.name is None or seen is None:
            return None
        if not pull.mirrored:
            self._freshness.answered(pull.name, seen)
        return time.time() - seen

    def _answer_head(self, pull: PullRequest, entity: Entity, source: Source) -> web.StreamResponse:
        self._count_hit(pull, source)
        return responses.content(pull, entity)

    async def _send(
        self, request: web.Request, pull: PullRequest, entity: Entity, source: Source, send: Send
    ) -> web.StreamResponse:
        """Send head and body, and count them; after a body that ends short the connection is closed."""
        response = responses.content(pull, entity)
        await response.prepare(request)
        sink = ResponseSink(request=request, response=response, timeout=self._client_timeout)
        miss: Miss | None = "client_gone"  # also if this task is cancelled, as it is when the client leaves
        try:
            miss = None if await send(sink) else "cut"
        except ClientGone as error:
            log.info("client gone", key=pull.key, sent=sink.sent, error=str(error))
        finally:
            self._metrics.sent(source, sink.sent)
            request[responses.SENT] = sink.sent
            if miss is None:
                self._count_hit(pull, source)
            else:
                self._count_miss(pull, miss)
                response.force_close()
        return response

    def _count_hit(self, pull: PullRequest, source: Source) -> None:
        if not pull.mirrored:  # a peer's pulls are counted where its client is
            self._metrics.hit(pull.registry, source, at=time.time())

    def _count_miss(self, pull: PullRequest, reason: Miss) -> None:
        if not pull.mirrored:
            self._metrics.miss(pull.registry, reason)


def _reason(error: OCIError) -> Miss:
    match error:
        case RangeInvalid():
            return "invalid"
        case OCIError(detail={"filtered": True}):
            return "filtered"
        case OCIError(detail={"attempts": int(attempts)}) if attempts > 0:
            return "failed"
        case _:
            return "not_found"
