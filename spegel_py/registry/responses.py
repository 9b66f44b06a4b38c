"""Answers for aiohttp: the headers of content, and rendered errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from spegel_py.errors import OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import (
    NAMESPACE_HEADER,
    SOURCE_HEADER,
    TAG_SEEN_HEADER,
    PullRequest,
    render,
)
from spegel_py.oci.range import ByteSpan, ContentRange
from spegel_py.registry.multipart import Multipart, PartsSink
from spegel_py.transfer.base import Sink

SERVER = "spegel-py"
API_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
SENT = web.RequestKey("sent", int)
"""The key of a request's number of body bytes sent, which may be smaller than announced."""

AGE = web.RequestKey("age", str)
"""The key of a tag's age, for an answer to a request that was made one for the tag's digest."""

PEER_HEADER = "X-Spegel-Peer"
"""The id of the peer that a relayed answer came from, of several peers the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """The content of an answer: `length` bytes from `start` on, of content of `size` bytes.

    Args:
        peer: the id of the peer that a relayed answer comes from.
        age: seconds since the tag was seen at its registry, if known.
        seen: the tag's observation, to be handed on.
        source: the id of the peer from which this node downloads content that still grows.
        multipart: the body of an answer with several parts; `length` then counts this body.
    """

    media_type: str
    digest: Digest
    size: int
    start: int
    length: int
    peer: str | None = None
    age: float | None = None
    seen: str | None = None
    source: str | None = None
    multipart: Multipart | None = None

    @property
    def spans(self) -> Sequence[ByteSpan]:
        """The bytes of the content that are sent, in order."""
        return self.multipart.spans if self.multipart else ((self.start, self.length),)

    def sink(self, sink: Sink, span: ByteSpan) -> Sink:
        """Return the sink for the content's bytes of a span, which passes them on to `sink`."""
        if self.multipart is None:
            return sink
        return PartsSink(sink, multipart=self.multipart, start=span[0])


def content(pull: PullRequest, entity: Entity) -> web.StreamResponse:
    """Return the head of the answer to `pull`; it is the same for GET and HEAD.

    The type is that of the content and ignores Accept: a registry cannot convert. A client
    reports an unknown type better than a 406, which no client expects here.
    """
    headers = {
        "Content-Type": entity.multipart.content_type if entity.multipart else entity.media_type,
        "Content-Length": str(entity.length),
        "Docker-Content-Digest": str(entity.digest),
        "Accept-Ranges": "bytes",
    }
    if pull.registry is not None:
        headers[NAMESPACE_HEADER] = pull.namespace or pull.registry
    if pull.range is not None:
        headers["Content-Range"] = str(ContentRange(entity.start, entity.length, entity.size))
    if entity.age is not None:
        headers["Age"] = str(max(0, round(entity.age)))
    if entity.seen is not None:
        headers[TAG_SEEN_HEADER] = entity.seen
    if entity.peer is not None:
        headers[PEER_HEADER] = entity.peer
    if entity.source is not None:
        headers[SOURCE_HEADER] = entity.source
    is_partial = pull.range is not None or entity.multipart is not None
    return web.StreamResponse(status=206 if is_partial else 200, headers=headers)


def error(cause: OCIError, *, status: int | None = None) -> web.Response:
    """Return the answer for an error; `status` replaces its own status if HTTP needs it."""
    rendered = render(cause)
    return web.Response(
        status=status or rendered.status,
        headers={**rendered.headers, "Server": SERVER},
        body=rendered.body,
    )
