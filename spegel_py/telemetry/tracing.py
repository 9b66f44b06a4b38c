"""Spans of requests, and of what was asked of peers for them: the port, what spans say, and what there is when nobody
collects them. Pure; `otlp` is where they go."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spegel_py.telemetry.decisions import Attempt, Decision

Attributes = Mapping[str, str | int | float | bool]

CONTEXT = ("traceparent", "tracestate")
"""The headers of W3C Trace Context: whose child a request is."""

NOTHING: Mapping[str, str] = MappingProxyType({})


class Span(Protocol):
    """Something that takes time; it has begun, and is to be ended once."""

    @property
    def is_on(self) -> bool:
        """Whether anybody will see it; if not, there is no need to work out what it says."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells a peer that its work is this span's child."""
        ...

    def child(self, name: str) -> Span:
        """Begin something that is done for this span at a peer."""
        ...

    def end(self, attributes: Attributes, *, failure: str = "") -> None:
        """End it, and say what came of it; a `failure` in a word or two makes it an error."""
        ...


class Tracer(Protocol):
    """Begins spans."""

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request, as a child of the one that its headers name, if they do."""
        ...


class _NoSpan:
    is_on = False
    headers = NOTHING

    def child(self, name: str) -> Span:
        return self

    def end(self, attributes: Attributes, *, failure: str = "") -> None:
        return None


class _NoTracer:
    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        return NO_SPAN


NO_SPAN: Span = _NoSpan()
NO_TRACER: Tracer = _NoTracer()


def of_request(decision: Decision, *, is_mirrored: bool) -> Attributes:
    """Return what the span of a request says: what its record does; `is_mirrored` if a peer made it."""
    return _given(
        {
            "http.request.method": decision.method,
            "http.response.status_code": decision.status,
            "spegel.kind": decision.kind,
            "spegel.reference": decision.reference,
            "spegel.digest": decision.digest,
            "spegel.mirrored": is_mirrored,
            "spegel.source": decision.source,
            "spegel.reason": decision.reason,
            "spegel.why": decision.text,
            "spegel.bytes": decision.sent,
            "spegel.peers_found": decision.lookup.found if decision.lookup else None,
        }
    )


def of_attempt(attempt: Attempt) -> Attributes:
    """Return what the span of a request to a peer says: what its entry in the record does."""
    return _given(
        {
            "server.address": attempt["addr"],
            "spegel.peer": attempt["peer"],
            "spegel.offset": attempt["offset"],
            "spegel.bytes": attempt["bytes"],
            "spegel.outcome": attempt["outcome"],
            "spegel.hedge": attempt["hedge"],
        }
    )


def _given(attributes: Mapping[str, object]) -> Attributes:
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, str | int | float | bool)
    }
