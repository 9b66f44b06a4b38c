"""The records of the last requests of this node's clients, in bounded memory; each is counted and logged as it ends.

Log event, which tools read: `pull decided`, with the fields of Decision.as_json.
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
from spegel_py.telemetry.decisions import Decision, Inquiry, Query
from spegel_py.telemetry.metrics import Metrics
from spegel_py.telemetry.tracing import NO_TRACER, NOTHING, Tracer, of_request
from spegel_py.telemetry.verdict import decide

log = structlog.get_logger(__name__)

LIMIT = 1000
"""Records kept, the latest: a few pulls of large images."""

MAX_BYTES = 2 * 1024 * 1024
"""Bytes of their JSON, which is what they are kept as: a usual one has 500, and what is searched takes 800 besides,
since names have bounds of their own, so that all of it stays below 3 MB."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    digest: str | None
    reference: str
    data: bytes


class Ledger:
    """Keeps at most `limit` records and `max_bytes` of them; `tracer` has a span of each request.

    `clock` is monotonic, `now` Unix time, both in seconds.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        tracer: Tracer = NO_TRACER,
        limit: int = LIMIT,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._limit = limit
        self._max_bytes = max_bytes
        self._clock = clock
        self._now = now
        self._entries: deque[_Entry] = deque()
        self._under_way: dict[int, Inquiry] = {}
        self.bytes = 0
        self.added = 0
        """Records ever made, those that are kept no more included: what has changed since is seen by it."""

    def __repr__(self) -> str:
        return f"<Ledger of {len(self._entries)} decisions, {self.bytes} bytes>"

    @property
    def kept(self) -> int:
        """How many records there are; no `__len__`, for an empty ledger is no missing one."""
        return len(self._entries)

    @property
    def under_way(self) -> Sequence[Inquiry]:
        """The requests that are being answered now, peers' too, the oldest first."""
        return tuple(self._under_way.values())

    @contextmanager
    def inquiry(self, pull: PullRequest, headers: Mapping[str, str] = NOTHING) -> Iterator[Inquiry]:
        """Give what to note down about a request while it is answered; after the block it is decided and kept.

        The request's `headers` say whose child its span is.

        What ends the block by an exception is noted, and raised further. A peer's request is neither counted nor kept:
        it is at the node whose client asked. It has a span as well.
        """
        span = self._tracer.request(f"{'HEAD' if pull.head else 'GET'} {pull.kind.value}", headers)
        inquiry, began = Inquiry(pull=pull, at=self._now(), span=span), self._clock()
        self._under_way[id(inquiry)] = inquiry
        try:
            yield inquiry
        except OCIError as error:
            inquiry.refusal, inquiry.status = error, error.status
            raise
        except (
            asyncio.CancelledError,
            ConnectionError,
        ):  # both are what a client that leaves looks like
            inquiry.left = True
            raise
        except Exception as error:
            inquiry.fault = f"{type(error).__name__}: {error}"
            raise
        finally:
            del self._under_way[id(inquiry)]
            if span.is_on or not pull.mirrored:
                self._decide(inquiry, seconds=self._clock() - began)

    def find(self, query: Query | None, *, limit: int) -> list[dict[str, Any]]:
        """Return the latest records that are meant (all without a query), the newest first."""
        found: list[dict[str, Any]] = []
        for entry in reversed(self._entries):
            if len(found) >= limit:
                break
            if query is None or query.matches(
                key=entry.key, digest=entry.digest, reference=entry.reference
            ):
                found.append(json.loads(entry.data))
        return found

    def _decide(self, inquiry: Inquiry, *, seconds: float) -> None:
        decision, is_mirrored = decide(inquiry, seconds=seconds), inquiry.pull.mirrored
        if inquiry.span.is_on:
            inquiry.span.end(
                of_request(decision, is_mirrored=is_mirrored), failure=inquiry.fault or ""
            )
        if not is_mirrored:
            self._settle(decision)

    def _settle(self, decision: Decision) -> None:
        self._metrics.decided(decision, at=self._now())
        record = decision.as_json()
        log.info("pull decided", **record)
        data = json.dumps(record, separators=(",", ":")).encode()
        self._entries.append(_Entry(decision.key, decision.digest, decision.reference, data))
        self.bytes += len(data)
        self.added += 1
        while self._entries and (len(self._entries) > self._limit or self.bytes > self._max_bytes):
            self.bytes -= len(self._entries.popleft().data)
