"""A node's pull in the demonstration, through its own mirror into its own layout."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from spegel_py.demo import node_log
from spegel_py.demo.demo_cluster import DemoCluster
from spegel_py.demo.demo_image import DemoImage
from spegel_py.demo.demo_node import DemoFailed, DemoNode
from spegel_py.demo.demo_result import NodeKill, NodeResult
from spegel_py.demo.progress_table import ProgressTable
from spegel_py.demo.source_tree import UPSTREAM
from spegel_py.errors import OCIError, PeerError, SpegelError
from spegel_py.pull import BlobInterrupted, BlobOpened, BytesFetched, PullEvent, PullReport, pull
from spegel_py.pull.plan import rotated
from spegel_py.store.layout import LayoutWriter
from spegel_py.transfer.bucket import TokenBucket

LOGGED = 5.0
"""Seconds after a pull in which the node's last log lines appear.

The node logs them after the client has received everything.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoContext:
    """The cluster, the image and the table, which all steps of the demonstration use."""

    cluster: DemoCluster
    image: DemoImage
    table: ProgressTable
    upstream: str | None = None
    """URL of the registry that has the image; None if the image may come from nodes only."""

    @property
    def keys(self) -> int:
        """Number of records that a node with the whole image announces: its digests and the tag."""
        return len(self.image.all) + 1


class Puller:
    """Pulls for one node; `rate` is in bytes per second, 0 for no limit."""

    def __init__(self, *, context: DemoContext, node: DemoNode, rate: float = 0.0) -> None:
        self._context = context
        self._node = node
        self._bucket = TokenBucket(rate=rate, burst=0.0)
        self._by_id = context.cluster.by_id()
        self._logged = len(node.events())
        self._resumed = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self._node.name}>"

    async def run(self, start: int = 0) -> NodeResult:
        """Pull, starting with the blob of number `start`; a failed pull has a result too."""
        began = time.monotonic()
        try:
            report = await pull(
                self._context.image.name,
                mirror=self._node.mirror,
                upstream=self._context.upstream,
                writer=LayoutWriter(root=self._node.layout, is_durable=False),
                platform=self._context.image.platform,
                on_progress=self.on_event,
                order=lambda blobs: rotated(blobs, start),
            )
        except SpegelError as error:
            return self._failure(error, time.monotonic() - began)
        return await self._success(report)

    async def on_event(self, event: PullEvent) -> None:
        """Show an event of the pull, and limit the pull to its rate."""
        self._context.table.record_event(self._node.name, event, self._source(event))
        if isinstance(event, BlobOpened) and event.is_upstream:
            self._context.table.record_link(self._node.name, event.blob.digest, UPSTREAM)
        if isinstance(event, BlobInterrupted):
            self._resumed += 1
        if isinstance(event, BytesFetched) and (
            delay := self._bucket.pay(event.count, time.monotonic())
        ):
            await asyncio.sleep(delay)

    async def _success(self, report: PullReport) -> NodeResult:
        """Return the result once the log accounts for every byte, or after LOGGED seconds."""
        with suppress(DemoFailed):
            mirrored = report.fetched - report.upstream
            await self._node.until(
                lambda: self._has_logged(mirrored), "logged too little", deadline=LOGGED
            )
        events = self._events()
        return NodeResult(
            node=self._node.name,
            from_peers=self._from_peers(events),
            from_upstream=report.upstream,
            fetched=report.fetched,
            upstream_requests=node_log.misses(events),
            resumed=self._resumed,
            seconds=report.seconds,
            verified=report.verified,
        )

    async def _has_logged(self, count: int) -> bool:
        return sum(node_log.received(self._events()).values()) >= count

    def _failure(self, error: SpegelError, seconds: float) -> NodeResult:
        events = self._events()
        is_upstreams = isinstance(
            error, OCIError | PeerError
        )  # these make containerd ask the next host
        return NodeResult(
            node=self._node.name,
            from_peers=self._from_peers(events),
            upstream_requests=max(node_log.misses(events), int(is_upstreams)),
            resumed=self._resumed,
            seconds=seconds,
            error=str(error),
        )

    def _events(self) -> list[node_log.LogEvent]:
        """Return the events that the node has logged since this pull began."""
        return self._node.events()[self._logged :]

    def _source(self, event: PullEvent) -> str | None:
        """Return the name of the source of an event's bytes."""
        if not isinstance(event, BlobOpened | BytesFetched):
            return None
        if event.is_upstream:
            return UPSTREAM
        node = self._by_id.get(event.peer or "")
        return node.name if node else None

    def _from_peers(self, events: list[node_log.LogEvent]) -> dict[str, int]:
        name_of = self._context.cluster.name_of
        return {name_of(address): count for address, count in node_log.received(events).items()}


class KillingPuller(Puller):
    """Pulls, and kills the sender of the largest layer once its first bytes have arrived."""

    def __init__(self, *, context: DemoContext, node: DemoNode) -> None:
        super().__init__(context=context, node=node)
        self._blob = context.image.largest
        self._samples: list[tuple[float, int]] = []
        self._was_broken = False
        self._victim: DemoNode | None = None
        self._pid = 0
        self._killed = 0.0
        self._client_byte = 0

    async def on_event(self, event: PullEvent) -> None:
        """Kill the sender at the right moment; the body is not read until the sender is dead."""
        await super().on_event(event)
        if isinstance(event, BlobInterrupted) and event.blob == self._blob:
            self._was_broken = True
        if not isinstance(event, BytesFetched) or event.blob != self._blob:
            return
        self._samples.append((time.time(), event.offset))
        victim = self._by_id.get(event.peer or "")
        if self._victim is None and victim is not None and event.offset < event.blob.size:
            await self._kill(victim, event.offset)

    def kill(self) -> NodeKill | None:
        """Return the kill and its effect; None if no node was killed."""
        victim, blob = self._victim, self._blob
        if victim is None:
            return None
        found = node_log.takeover(self._node.events(), str(blob.digest), victim.address)
        kill = NodeKill(
            node=victim.name,
            pid=self._pid,
            layer=str(blob.digest),
            size=blob.size,
            client_byte=self._client_byte,
        )
        if found is None:
            return kill
        gap = node_log.gap(self._samples, at=found.at, killed=self._killed)
        return replace(
            kill,
            at_byte=found.at,
            continued_from=self._context.cluster.name_of(found.to_addr),
            same_response=not self._was_broken and found.total == blob.size,
            gap_ms=_ms(gap),
            failover_ms=_ms(found.when - self._killed if found.when is not None else None),
        )

    async def _kill(self, victim: DemoNode, offset: int) -> None:
        self._victim, self._pid, self._client_byte = victim, victim.pid or 0, offset
        self._killed = time.time()
        victim.kill()
        await victim.wait_ended()
        self._context.table.mark_killed(victim.name)
        self._context.table.say(
            f"  killed {victim.name} (pid {self._pid}) at byte {offset} of {self._blob.size}"
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
