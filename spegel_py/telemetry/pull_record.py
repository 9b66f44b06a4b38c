"""The context of a pull while it lasts, and the record that is kept afterwards. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spegel_py.errors import DigestInvalid, NameInvalid, OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullClient, PullRequest
from spegel_py.oci.reference import Reference
from spegel_py.outcomes import AttemptRecord, ContentSource, LocalState, Lookup, MissReason
from spegel_py.telemetry.tracing import NO_SPAN, Attributes, Span, attributes


@dataclass(slots=True, kw_only=True)
class PullContext:
    """The facts about a request so far, filled in by the code that answers it.

    `at` is the Unix time at which the request came. `source` and `length` are set with the head of
    the answer; `sent` counts the bytes of its body. `age` is the number of seconds since anybody
    saw the tag, which is here, at its registry. `is_registry_away` is True once that registry did
    not answer, so that a tag of any age is answered. `left` is True once the client has left.
    `fault` is the text of a programming error. Requests to peers have spans below `span`. While a
    body is sent, `progress` returns the number of bytes so far, and `peer` is the id of the first
    peer that sent a part of the body.
    """

    pull: PullRequest
    at: float
    local: LocalState = LocalState.UNASKED
    age: float = 0.0
    is_registry_away: bool = False
    lookup: Lookup | None = None
    attempts: Sequence[AttemptRecord] = ()
    source: ContentSource = ContentSource.NONE
    digest: Digest | None = None
    length: int = 0
    sent: int = 0
    status: int | None = None
    refusal: OCIError | None = None
    left: bool = False
    fault: str | None = None
    span: Span = NO_SPAN
    peer: str | None = None
    progress: Callable[[], int] = field(default=lambda: 0, repr=False)

    @property
    def is_answered(self) -> bool:
        """Return True if the head of an answer with content was sent."""
        return self.source is not ContentSource.NONE

    @property
    def is_complete(self) -> bool:
        """Return True if all bytes were sent that the head promised; a HEAD promises none."""
        return self.is_answered and (self.pull.head or self.sent == self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRecord:
    """The record of a request that is over: a hit from a `source`, or a miss with its `reason`.

    `text` states the outcome in words. `status` is the HTTP status of the answer, None if there was
    none. `milliseconds` is the time from the head of the request to the last byte of the answer.
    `node` is the name of another node whose runtime asked, as it does through the cluster's node
    port; None for this node's own.
    """

    at: float
    method: str
    kind: str
    key: str
    reference: str
    registry: str | None
    range: str | None
    digest: str | None
    local: LocalState
    lookup: Lookup | None
    attempts: Sequence[AttemptRecord]
    source: ContentSource
    length: int
    sent: int
    status: int | None
    reason: MissReason | None
    text: str
    milliseconds: float
    client: PullClient = PullClient.RUNTIME
    node: str | None = None

    @property
    def is_hit(self) -> bool:
        return self.reason is None

    def as_json(self) -> dict[str, object]:
        """Return the record as it is logged and shown.

        `bytes` counts the bytes of the body that were sent to the client.
        """
        lookup = self.lookup
        first = lookup.first if lookup else None
        return {
            "at": round(self.at, 3),
            "verdict": "hit" if self.is_hit else "miss",
            "source": self._source,
            "reason": self._reason,
            "text": self.text,
            "method": self.method,
            "kind": self.kind,
            "key": self.key,
            "reference": self.reference,
            "registry": self.registry,
            "range": self.range,
            "digest": self.digest,
            "status": self.status,
            "local": self.local.value,
            "peers_found": lookup.found if lookup else None,
            "lookup_ms": None if first is None else round(first * 1000, 1),
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "bytes": {
                source.value: self.sent if source is self.source else 0
                for source in (ContentSource.LOCAL, ContentSource.PEER)
            },
            "length": self.length,
            "ms": round(self.milliseconds, 1),
            "client": self.client.value,
            "node": self.node,
        }

    def span_attributes(self, *, is_mirrored: bool) -> Attributes:
        """Return the attributes of the request's span; `is_mirrored` if a peer sent the request."""
        return attributes(
            {
                "http.request.method": self.method,
                "http.response.status_code": self.status,
                "spegel.kind": self.kind,
                "spegel.reference": self.reference,
                "spegel.digest": self.digest,
                "spegel.mirrored": is_mirrored,
                "spegel.source": self._source,
                "spegel.reason": self._reason,
                "spegel.why": self.text,
                "spegel.bytes": self.sent,
                "spegel.peers_found": self.lookup.found if self.lookup else None,
            }
        )

    @property
    def _source(self) -> str | None:
        return None if self.source is ContentSource.NONE else self.source.value

    @property
    def _reason(self) -> str | None:
        return None if self.reason is None else self.reason.value


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """A search for records.

    An exact text is a digest or a tag's full name. Any other text is a part of a reference or of a
    digest.
    """

    text: str
    is_exact: bool

    @classmethod
    def parse(cls, text: str) -> RecordQuery:
        """Return the query for a digest, for a reference, or for a part of either.

        A reference with a tag and a digest is searched by the digest.
        """
        try:
            return cls(str(Digest.parse(text)), True)
        except DigestInvalid:
            pass
        try:
            reference = Reference.parse(text)
        except (NameInvalid, DigestInvalid):
            return cls(text, False)
        return cls(str(reference.digest or reference.key), True)

    def matches(self, *, key: str, digest: str | None, reference: str) -> bool:
        """Return True if a record with these names is searched for."""
        if self.is_exact:
            return self.text in (key, digest)
        return self.text in reference or self.text in (digest or "")
