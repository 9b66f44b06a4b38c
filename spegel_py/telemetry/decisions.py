"""Why a pull went where it went: what becomes known of one request, and the record that it ends in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spegel_py.errors import DigestInvalid, NameInvalid, OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.oci.reference import Reference
from spegel_py.telemetry.tracing import NO_SPAN, Span

Source = Literal["local", "peer"]
"""Where the bytes of an answer came from."""

Local = Literal["unasked", "held", "absent", "growing", "too_old", "away"]
"""What this node's own store said: not asked at all, it is here, it is not, a tag that is here is too old to be
answered (`--tag-ttl`), or the store itself did not answer."""

Miss = Literal[
    "not_found",
    "lookup_timeout",
    "lookup_failed",
    "shunned",
    "failed",
    "cut",
    "client_gone",
    "invalid",
    "filtered",
    "too_old",
    "store_away",
    "error",
]
"""Why a pull was no hit. Nobody has it; no peer was found in time, or the lookup broke; peers have it, but sent wrong
bytes or broke off lately, and are not asked; all that were asked failed; the body ended short; the client left before
its end; the range lies outside the content; a filter or `--tag-ttl 0` keeps it from being mirrored. The tag here is too
old, the store here is away, and no peer helped out; a fault of this node."""

Attempt = Mapping[str, object]
"""One request to a peer, as `relay finished` logs it: peer, addr, offset, bytes, ms, outcome, hedge,
in_flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What looking for peers gave: `found` of them, the first after `first` seconds; over in itself, or not yet `ended`
    when it was no longer needed or waited for; and the `error` that it broke with."""

    found: int = 0
    first: float | None = None
    ended: bool = True
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Inquiry:
    """What is known so far of a request that came `at` this Unix time.

    `source` and `length` are set with the head of an answer, `sent` counts its body. `age` is for how many seconds
    nobody saw the tag, which is here, at its registry. `left` says that the client did, `fault` is what broke in this
    program. What is asked of peers for it is a child of its `span`.
    While a body is sent, `progress` says how much of it was, and `peer` is the id of the one that began it.
    """

    pull: PullRequest
    at: float
    local: Local = "unasked"
    age: float = 0.0
    lookup: Lookup | None = None
    attempts: Sequence[Attempt] = ()
    source: Source | None = None
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
    def is_complete(self) -> bool:
        """Whether all was sent that a head promised; a HEAD promises nothing more."""
        return self.source is not None and (self.pull.head or self.sent == self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The record of one request: a hit from a `source`, or a miss with its `reason`; `text` says it in words.

    `status` is the answer's, None if there was none. `milliseconds` last from the request's head to the last byte.
    """

    at: float
    method: str
    kind: str
    key: str
    reference: str
    registry: str | None
    range: str | None
    digest: str | None
    local: Local
    lookup: Lookup | None
    attempts: Sequence[Attempt]
    source: Source | None
    length: int
    sent: int
    status: int | None
    reason: Miss | None
    text: str
    milliseconds: float

    @property
    def is_hit(self) -> bool:
        return self.reason is None

    def as_json(self) -> dict[str, object]:
        """Return the record as it is logged and shown; `bytes` are those of the body that the client was sent."""
        lookup = self.lookup
        return {
            "at": round(self.at, 3),
            "verdict": "hit" if self.is_hit else "miss",
            "source": self.source,
            "reason": self.reason,
            "text": self.text,
            "method": self.method,
            "kind": self.kind,
            "key": self.key,
            "reference": self.reference,
            "registry": self.registry,
            "range": self.range,
            "digest": self.digest,
            "status": self.status,
            "local": self.local,
            "peers_found": lookup.found if lookup else None,
            "lookup_ms": round(lookup.first * 1000, 1)
            if lookup and lookup.first is not None
            else None,
            "attempts": list(self.attempts),
            "bytes": {
                source: self.sent if source == self.source else 0 for source in ("local", "peer")
            },
            "length": self.length,
            "ms": round(self.milliseconds, 1),
        }


@dataclass(frozen=True, slots=True)
class Query:
    """What records are searched for: a digest or a tag's full name as it is, anything else as a part of either."""

    text: str
    is_exact: bool

    @classmethod
    def parse(cls, text: str) -> Query:
        """Return the query for a digest, a reference or a part of one; of a reference with both, the digest counts."""
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
        """Say whether a record is meant."""
        if self.is_exact:
            return self.text in (key, digest)
        return self.text in reference or self.text in (digest or "")


def reference_of(pull: PullRequest) -> str:
    """Return the full reference that was asked for, by which all parts of an image are found."""
    if pull.name is not None:
        return pull.name
    registry = f"{pull.registry}/" if pull.registry else ""
    return f"{registry}{pull.repository}@{pull.reference}"
