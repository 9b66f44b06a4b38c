"""Spans that are sent to an OpenTelemetry collector over OTLP/HTTP.

This is the only module that imports OpenTelemetry, and it is imported only if tracing is on. A
thread of the SDK sends the spans from a queue of 2048. Spans that find the queue full are lost, and
no request waits. The SDK's own variables control sampling and batches (`OTEL_TRACES_SAMPLER`,
`OTEL_BSP_…`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from spegel_py.telemetry.tracing import CONTEXT, Attributes, Span, Tracer

TIMEOUT = 3
"""Seconds for sending one batch, with retries. At the end of a node the remaining spans get as
long."""

_PROPAGATOR = TraceContextTextMapPropagator()


@asynccontextmanager
async def tracing(*, endpoint: str, version: str, instance: str) -> AsyncIterator[Tracer]:
    """Give a tracer whose spans go to the URL `endpoint`; `instance` is the node's peer id.

    Spans that are still queued are sent at the end.
    """
    resource = Resource.create(
        {"service.name": "spegel-py", "service.version": version, "service.instance.id": instance}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT))
    )
    try:
        yield _Tracer(provider.get_tracer("spegel_py", version))
    finally:
        await asyncio.to_thread(provider.shutdown)


class _Tracer:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        given = {name: headers[name] for name in CONTEXT if name in headers}
        parent = _PROPAGATOR.extract(given, Context())
        return _Span(self._tracer, self._tracer.start_span(name, parent, SpanKind.SERVER))


class _Span:
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context())
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, self._context)
        self.headers: Mapping[str, str] = headers

    @property
    def is_on(self) -> bool:
        return self._span.is_recording()

    def child(self, name: str) -> Span:
        return _Span(self._tracer, self._tracer.start_span(name, self._context, SpanKind.CLIENT))

    def end(self, attributes: Attributes, *, failure: str = "") -> None:
        self._span.set_attributes(attributes)
        if failure:
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()
