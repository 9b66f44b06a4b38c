"""The port for spans: of requests to this node, and of its requests to peers. Pure.

The spans here do nothing; `otlp` has the ones that are sent to a collector.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool]

CONTEXT = ("traceparent", "tracestate")
"""The headers of W3C Trace Context, which name the parent of a request's span."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Span(Protocol):
    """An operation that takes time. It has begun, and has to be ended once."""

    @property
    def is_on(self) -> bool:
        """Return True if the span is recorded; otherwise its attributes need not be computed."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by which a peer makes its own span a child of this span."""
        ...

    def child(self, name: str) -> Span:
        """Begin the span of a request to a peer."""
        ...

    def end(self, attributes: Attributes, *, failure: str = "") -> None:
        """End the span; a `failure` in a word or two marks it as an error."""
        ...


class Tracer(Protocol):
    """Begins spans."""

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request, as a child of the span that its headers name, if any."""
        ...


class _NoSpan:
    is_on = False
    headers = NO_HEADERS

    def child(self, name: str) -> Span:
        return self

    def end(self, attributes: Attributes, *, failure: str = "") -> None:
        return None


class _NoTracer:
    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        return NO_SPAN


NO_SPAN: Span = _NoSpan()
NO_TRACER: Tracer = _NoTracer()


def attributes(values: Mapping[str, object]) -> Attributes:
    """Return the values that a span can have; None is left out."""
    return {
        name: value for name, value in values.items() if isinstance(value, str | int | float | bool)
    }
