"""One node's pull in the demonstration: through its own mirror, into its own layout, and what its log says of it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from spegel_py.demo import journal
from spegel_py.demo.board import Board
from spegel_py.demo.cluster import Cluster
from spegel_py.demo.content import Content
from spegel_py.demo.node import DemoFailed, Node
from spegel_py.demo.outcome import Kill, NodeResult
from spegel_py.demo.pace import Pace
from spegel_py.demo.tree import UPSTREAM
from spegel_py.errors import OCIError, PeerError, SpegelError
from spegel_py.pull import BlobInterrupted, BlobOpened, BytesFetched, PullEvent, PullReport, pull
from spegel_py.pull.plan import rotated
from spegel_py.store.layout import LayoutWriter

LOGGED = 5.0
"""Seconds for a node's last log lines to be there after its pull: it logs once the client has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every part of the demonstration needs."""

    cluster: Cluster
    content: Content
    board: Board
    upstream: str | None = None
    """The URL of the registry that has the image; None where nothing may come from there."""

    @property
    def keys(self) -> int:
        """How many records a node announces that holds all: its digests and the tag."""
        return len(self.content.all) + 1


class Puller:
    """Pulls for one node; `rate` is in bytes per second, 0 for as fast as it goes."""

    def __init__(self, *, stage: Stage, node: Node, rate: float = 0.0) -> None:
        self._stage = stage
        self._node = node
        self._pace = Pace(rate=rate)
        self._by_id = stage.cluster.by_id()
        self._logged = len(node.events())
        self._resumed = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self._node.name}>"

    async def run(self, start: int = 0) -> NodeResult:
        """Pull, from the blob with that number on; a pull that fails is a result too."""
        began = time.monotonic()
        try:
            report = await pull(
                self._stage.content.name,
                mirror=self._node.mirror,
                upstream=self._stage.upstream,
                writer=LayoutWriter(root=self._node.layout, is_durable=False),
                platform=self._stage.content.platform,
                on_progress=self.hear,
                order=lambda blobs: rotated(blobs, start),
            )
        except SpegelError as error:
            return self._failure(error, time.monotonic() - began)
        return await self._success(report)

    async def hear(self, event: PullEvent) -> None:
        """Show what happens, and hold the pull to its rate."""
        self._stage.board.hear(self._node.name, event, self._source(event))
        if isinstance(event, BlobOpened) and event.is_upstream:
            self._stage.board.takes(self._node.name, event.blob.digest, UPSTREAM)
        if isinstance(event, BlobInterrupted):
            self._resumed += 1
        if isinstance(event, BytesFetched) and (
            delay := self._pace.delay(event.count, time.monotonic())
        ):
            await asyncio.sleep(delay)

    async def _success(self, report: PullReport) -> NodeResult:
        """Return the result once the log accounts for every byte, or after LOGGED seconds as it is then."""
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
            upstream_requests=journal.misses(events),
            resumed=self._resumed,
            seconds=report.seconds,
            verified=report.verified,
        )

    async def _has_logged(self, count: int) -> bool:
        return sum(journal.received(self._events()).values()) >= count

    def _failure(self, error: SpegelError, seconds: float) -> NodeResult:
        events = self._events()
        is_upstreams = isinstance(
            error, OCIError | PeerError
        )  # what makes containerd ask the next host
        return NodeResult(
            node=self._node.name,
            from_peers=self._from_peers(events),
            upstream_requests=max(journal.misses(events), int(is_upstreams)),
            resumed=self._resumed,
            seconds=seconds,
            error=str(error),
        )

    def _events(self) -> list[journal.Event]:
        """Return what the node has logged since this pull began."""
        return self._node.events()[self._logged :]

    def _source(self, event: PullEvent) -> str | None:
        """Return the name of where an event's bytes come from."""
        if not isinstance(event, BlobOpened | BytesFetched):
            return None
        if event.is_upstream:
            return UPSTREAM
        node = self._by_id.get(event.peer or "")
        return node.name if node else None

    def _from_peers(self, events: list[journal.Event]) -> dict[str, int]:
        name_of = self._stage.cluster.name_of
        return {name_of(address): count for address, count in journal.received(events).items()}


class Killer(Puller):
    """Pulls, and kills the node that sends the largest layer as soon as the first bytes of it are there."""

    def __init__(self, *, stage: Stage, node: Node) -> None:
        super().__init__(stage=stage, node=node)
        self._blob = stage.content.largest
        self._samples: list[tuple[float, int]] = []
        self._was_broken = False
        self._victim: Node | None = None
        self._pid = 0
        self._killed = 0.0
        self._client_byte = 0

    async def hear(self, event: PullEvent) -> None:
        """Kill at the right moment; the body is not read on before the victim is dead."""
        await super().hear(event)
        if isinstance(event, BlobInterrupted) and event.blob == self._blob:
            self._was_broken = True
        if not isinstance(event, BytesFetched) or event.blob != self._blob:
            return
        self._samples.append((time.time(), event.offset))
        victim = self._by_id.get(event.peer or "")
        if self._victim is None and victim is not None and event.offset < event.blob.size:
            await self._kill(victim, event.offset)

    def kill(self) -> Kill | None:
        """Return how it went; None if nobody was killed."""
        victim, blob = self._victim, self._blob
        if victim is None:
            return None
        found = journal.takeover(self._node.events(), str(blob.digest), victim.address)
        kill = Kill(
            node=victim.name,
            pid=self._pid,
            layer=str(blob.digest),
            size=blob.size,
            client_byte=self._client_byte,
        )
        if found is None:
            return kill
        gap = journal.gap(self._samples, at=found.at, killed=self._killed)
        return replace(
            kill,
            at_byte=found.at,
            continued_from=self._stage.cluster.name_of(found.to_addr),
            same_response=not self._was_broken and found.total == blob.size,
            gap_ms=_ms(gap),
            failover_ms=_ms(found.when - self._killed if found.when is not None else None),
        )

    async def _kill(self, victim: Node, offset: int) -> None:
        self._victim, self._pid, self._client_byte = victim, victim.pid or 0, offset
        self._killed = time.time()
        victim.kill()
        await victim.gone()
        self._stage.board.killed(victim.name)
        self._stage.board.say(
            f"  killed {victim.name} (pid {self._pid}) at byte {offset} of {self._blob.size}"
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
