"""Answers as aiohttp sends them: the headers of content, and rendered errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from spegel_py.errors import OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import NAMESPACE_HEADER, SOURCE_HEADER, PullRequest, render
from spegel_py.oci.range import ByteSpan, ContentRange
from spegel_py.registry.multipart import Multipart, PartsSink
from spegel_py.transfer.base import Sink

SERVER = "spegel-py"
API_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
SENT = web.RequestKey("sent", int)
"""Notes at a request how many bytes of the body were sent, which may be fewer than its answer said."""

PEER_HEADER = "X-Spegel-Peer"
"""The id of the peer that the bytes of a relayed answer came from (the first one, where others went on)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What an answer holds: `length` bytes from `start` on, of content of `size` bytes.

    `peer` is for a relayed one; `age` for a tag: how many seconds ago it was seen at its registry, if that is known;
    `source` for what still grows: the id of the peer that this node takes it from, if it does.
    An answer of several parts is `multipart`, and `length` counts all of its body.
    """

    media_type: str
    digest: Digest
    size: int
    start: int
    length: int
    peer: str | None = None
    age: float | None = None
    source: str | None = None
    multipart: Multipart | None = None

    @property
    def spans(self) -> Sequence[ByteSpan]:
        """The bytes of the content that are sent, in order."""
        return self.multipart.spans if self.multipart else ((self.start, self.length),)

    def sink(self, sink: Sink, span: ByteSpan) -> Sink:
        """Return where the content's bytes of a span are written to, to arrive at `sink`."""
        if self.multipart is None:
            return sink
        return PartsSink(sink, multipart=self.multipart, start=span[0])


def content(pull: PullRequest, entity: Entity) -> web.StreamResponse:
    """Return the head of the answer to `pull`; it is the same for GET and HEAD.

    The type is the content's own, whatever Accept says: a registry cannot convert, and a client that gets what it
    does not know says so better than a 406, which no client expects here.
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
    if entity.peer is not None:
        headers[PEER_HEADER] = entity.peer
    if entity.source is not None:
        headers[SOURCE_HEADER] = entity.source
    is_partial = pull.range is not None or entity.multipart is not None
    return web.StreamResponse(status=206 if is_partial else 200, headers=headers)


def error(cause: OCIError, *, status: int | None = None) -> web.Response:
    """Return `cause` rendered; another `status` than its own is for what HTTP distinguishes and the spec does not."""
    rendered = render(cause)
    return web.Response(
        status=status or rendered.status,
        headers={**rendered.headers, "Server": SERVER},
        body=rendered.body,
    )
