"""One pull of chaos: its attempts, the counters of its node, and its misses."""

from __future__ import annotations

import asyncio
import http.client
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import grpc.aio

from tests.faults.chaos.cluster import ChaosCluster
from tests.faults.chaos.misses import decisions_of, judge
from tests.faults.pulls import DEADLINE, FAILURES, Pull, attempts, content_of
from tests.integration.cluster import metric
from tests.support.lab import Node
from tests.support.processes import until


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPull(Pull):
    """A pull with the counters of its node, which are None if the node died."""

    failures: int | None = None
    """Requests that peers broke off, stalled, refused or answered with wrong bytes."""
    local: int | None = None
    """Bytes from the node's own content."""
    peer: int | None = None
    """Bytes from peers."""
    registry: int = 0
    """Bytes from the registry."""
    misses: tuple[tuple[str, int], ...] = ()
    """How many requests no peer answered in full, by the recorded reason."""
    complaints: tuple[str, ...] = ()
    """Misses without a record, or with a reason that cannot be right."""


async def pull(
    cluster: ChaosCluster, node: Node, tries: int, *, reasons: Collection[str] = ()
) -> ChaosPull:
    """Pull with at most `tries` attempts; `reasons` are the reasons that a miss may have."""
    log_from = len(node.spegel.output) if node.spegel else 0
    made = await attempts(node, cluster.reference, tries=tries, before_retry=_until_ready)
    counted = await _counted(node)
    fetched = [one for one in cluster.lab.registry.requests("GET") if one.client == node.address]
    paths = [one.path for one in fetched]
    decisions, was_away = await decisions_of(node, log_from=log_from)
    misses = Counter(str(one["reason"]) for one in decisions if one["verdict"] == "miss")
    return ChaosPull.of(
        made,
        await asyncio.to_thread(content_of, cluster.image, node),
        **counted,
        registry=sum(one.size for one in fetched),
        misses=tuple(sorted(misses.items())),
        complaints=tuple(judge(decisions, allowed=reasons, fetched=paths, was_away=was_away)),
    )


async def _until_ready(node: Node, error: str) -> None:
    """Wait until another attempt makes sense; a kubelet waits 10 s.

    A containerd that died has to answer again, and must have deleted a wrong blob.
    """

    async def is_ready() -> bool:
        try:
            await node.cri.images()
        except grpc.aio.AioRpcError:
            return False
        ingests = node.daemon.content_path / "ingest"
        return "commit digest" not in error or not list(ingests.glob("*/data"))

    await until(is_ready, deadline=DEADLINE, pause=0.1)


async def _counted(node: Node) -> dict[str, int]:
    """Return a node's counters since its start, or nothing if it has ended."""
    served, outcomes = "spegel_served_bytes_total", "spegel_peer_attempts_total"
    try:
        counts = {source: await metric(node, served, source=source) for source in ("local", "peer")}
        failures = [await metric(node, outcomes, outcome=outcome) for outcome in FAILURES]
    except (OSError, http.client.HTTPException):
        return {}
    return {name: int(count) for name, count in (counts | {"failures": sum(failures)}).items()}
