"""The records of the last pulls by this node's clients, in bounded memory.

Each record is counted and logged when its pull ends. Log event, which tools read: `pull decided`,
with the fields of PullRecord.as_json.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from spegel_py.errors import OCIError
from spegel_py.oci.distribution import PullRequest
from spegel_py.telemetry.metrics import PullMetrics
from spegel_py.telemetry.pull_outcome import record_of
from spegel_py.telemetry.pull_record import PullContext, PullRecord, RecordQuery
from spegel_py.telemetry.tracing import NO_HEADERS, NO_TRACER, Tracer

log = structlog.get_logger(__name__)

LIMIT = 1000
"""Records kept, the latest ones: enough for a few pulls of large images."""

MAX_BYTES = 2 * 1024 * 1024
"""Bytes of JSON kept. A usual record has 500 bytes of JSON, and 800 bytes of names that are
searched. Names have bounds of their own, so a full log stays below 3 MB."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    digest: str | None
    reference: str
    data: bytes


class PullLog:
    """Keeps at most `limit` records, and at most `max_bytes` of their JSON.

    `tracer` makes a span for each request. `node` is this node's name. `clock` is monotonic, `now`
    is Unix time, both in seconds. `on_end` is called with the context of each request that is over,
    also of peers' requests.
    """

    def __init__(
        self,
        *,
        metrics: PullMetrics,
        tracer: Tracer = NO_TRACER,
        node: str = "",
        limit: int = LIMIT,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        on_end: Callable[[PullContext], None] = lambda context: None,
    ) -> None:
        self._metrics = metrics
        self._on_end = on_end
        self._tracer = tracer
        self._node = node
        self._limit = limit
        self._max_bytes = max_bytes
        self._clock = clock
        self._now = now
        self._entries: deque[_Entry] = deque()
        self._under_way: dict[int, PullContext] = {}
        self.bytes = 0
        self.added = 0
        """Number of records ever made, also of dropped ones. A reader sees by it that something is
        new."""

    def __repr__(self) -> str:
        return f"<PullLog of {len(self._entries)} records, {self.bytes} bytes>"

    @property
    def kept(self) -> int:
        """The number of records; there is no `__len__`, so that an empty log is not falsy."""
        return len(self._entries)

    @property
    def under_way(self) -> Sequence[PullContext]:
        """The requests that are being answered now, also those of peers, the oldest first."""
        return tuple(self._under_way.values())

    @contextmanager
    def recording(
        self, pull: PullRequest, headers: Mapping[str, str] = NO_HEADERS
    ) -> Iterator[PullContext]:
        """Give the context of a request while it is answered; keep its record after the block.

        The `headers` of the request name the parent of its span. An exception that ends the block
        is recorded and raised again. A peer's request has a span, but is neither counted nor kept:
        it is recorded at the node whose client made the pull.
        """
        span = self._tracer.request(f"{'HEAD' if pull.head else 'GET'} {pull.kind.value}", headers)
        context, began = PullContext(pull=pull, at=self._now(), span=span), self._clock()
        self._under_way[id(context)] = context
        try:
            yield context
        except OCIError as error:
            context.refusal, context.status = error, error.status
            raise
        except (asyncio.CancelledError, ConnectionError):  # either one means that the client left
            context.left = True
            raise
        except Exception as error:
            context.fault = f"{type(error).__name__}: {error}"
            raise
        finally:
            del self._under_way[id(context)]
            self._on_end(context)
            if span.is_on or not pull.mirrored:
                self._finish(context, seconds=self._clock() - began)

    def find(self, query: RecordQuery | None, *, limit: int) -> list[dict[str, Any]]:
        """Return the latest records that match the query, the newest first; without one, all."""
        found: list[dict[str, Any]] = []
        for entry in reversed(self._entries):
            if len(found) >= limit:
                break
            if query is None or query.matches(
                key=entry.key, digest=entry.digest, reference=entry.reference
            ):
                found.append(json.loads(entry.data))
        return found

    def _finish(self, context: PullContext, *, seconds: float) -> None:
        record = record_of(context, seconds=seconds, node=self._node)
        is_mirrored = context.pull.mirrored
        if context.span.is_on:
            attributes = record.span_attributes(is_mirrored=is_mirrored)
            context.span.end(attributes, failure=context.fault or "")
        if not is_mirrored:
            self._keep(record)

    def _keep(self, record: PullRecord) -> None:
        self._metrics.decided(record, at=self._now())
        fields = record.as_json()
        log.info("pull decided", **fields)
        data = json.dumps(fields, separators=(",", ":")).encode()
        self._entries.append(_Entry(record.key, record.digest, record.reference, data))
        self.bytes += len(data)
        self.added += 1
        while self._entries and (len(self._entries) > self._limit or self.bytes > self._max_bytes):
            self.bytes -= len(self._entries.popleft().data)
