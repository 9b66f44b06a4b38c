"""One pull by a containerd, as a kubelet would have it, and what became of it."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import grpc.aio

from tests.faults.chaos.field import Field
from tests.faults.chaos.misses import decisions_of, judge
from tests.integration.cluster import metric
from tests.lab import Node
from tests.processes import until

DEADLINE = 60.0
"""Seconds after which a pull counts as hung."""

FAILURES = ("unreachable", "stalled", "refused", "mismatch")
"""Outcomes of requests to peers that speak against the peer."""

Content = Literal["right", "incomplete", "wrong"]
"""Whether each blob of the image lies in the content store, and whether each that does has its digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One pull by a containerd; what its node counts, bytes by where they came from among it, is None where it died."""

    seconds: float
    """What its longest try took."""
    succeeded: bool
    errors: tuple[str, ...] = ()
    """Why tries failed, in order."""
    content: Content = "incomplete"
    failures: int | None = None
    """Requests to peers that failed: they broke, stalled, refused or sent wrong bytes."""
    local: int | None = None
    peer: int | None = None
    registry: int = 0
    misses: tuple[tuple[str, int], ...] = ()
    """Requests that no peer answered in full, by the reason on record."""
    complaints: tuple[str, ...] = ()
    """Misses without a record, or with a reason that cannot be right."""


async def pull(field: Field, node: Node, tries: int, *, reasons: Collection[str] = ()) -> Pull:
    """Pull, and where that fails try again, `tries` times in all; `reasons` are those that misses may have."""
    log_from = len(node.spegel.output) if node.spegel else 0
    errors: list[str] = []
    longest, succeeded = 0.0, False
    while not succeeded and len(errors) < tries:
        if errors:
            await until(lambda: _is_ready(node, errors[-1]), deadline=DEADLINE, pause=0.1)
        began = time.monotonic()
        try:
            await node.cri.pull(field.reference, deadline=DEADLINE)
            succeeded = True
        except grpc.aio.AioRpcError as failure:
            errors.append(f"{failure.code().name}: {failure.details()}")
        longest = max(longest, time.monotonic() - began)
    counted = await _counted(node)
    fetched = [one for one in field.lab.registry.requests("GET") if one.client == node.address]
    decisions, was_away = await decisions_of(node, log_from=log_from)
    misses = Counter(str(one["reason"]) for one in decisions if one["verdict"] == "miss")
    return Pull(
        seconds=longest,
        succeeded=succeeded,
        errors=tuple(errors),
        content=await asyncio.to_thread(content_of, field, node),
        failures=counted.get("failures"),
        local=counted.get("local"),
        peer=counted.get("peer"),
        registry=sum(one.size for one in fetched),
        misses=tuple(sorted(misses.items())),
        complaints=tuple(
            judge(
                decisions, allowed=reasons, fetched=[one.path for one in fetched], was_away=was_away
            )
        ),
    )


async def _is_ready(node: Node, error: str) -> bool:
    """Say whether a containerd may be asked again after an error, as it may when a kubelet does it, after 10 s.

    It is there again if it died, and it has thrown away what it had of a blob that turned out to be wrong.
    """
    try:
        await node.cri.images()
    except grpc.aio.AioRpcError:
        return False
    return "commit digest" not in error or not list(
        (node.daemon.content_path / "ingest").glob("*/data")
    )


def content_of(field: Field, node: Node) -> Content:
    """Return what lies in a node's content store of the image; it reads all of it."""
    found: Content = "right"
    for blob in field.image.blobs:
        try:
            with node.daemon.path(blob.digest).open("rb") as file:
                if hashlib.file_digest(file, blob.digest.algorithm).hexdigest() != blob.digest.hex:
                    return "wrong"
        except FileNotFoundError:
            found = "incomplete"
    return found


async def _counted(node: Node) -> dict[str, int]:
    """Return what a node has counted since it started; nothing if it has ended."""
    served, attempts = "spegel_served_bytes_total", "spegel_peer_attempts_total"
    try:
        counts = {source: await metric(node, served, source=source) for source in ("local", "peer")}
        failures = [await metric(node, attempts, outcome=outcome) for outcome in FAILURES]
    except (OSError, http.client.HTTPException):
        return {}
    return {name: int(count) for name, count in (counts | {"failures": sum(failures)}).items()}
