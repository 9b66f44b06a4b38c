"""Answers other nodes' requests to keep images, and takes the images, a few at a time.

A request costs this node disk and traffic, so it is judged by this node's own settings: whatever
the asking node says, an image beyond the filters, the size or the disk is refused.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.replicas.action_record import OnAction, action_record, ignore_action
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.image_heat import ImageHeat
from spegel_py.replicas.keep_messages import (
    ImageKept,
    ImageTaking,
    ImageUsed,
    KeepAnswer,
    KeepRefused,
    KeepRequest,
    RefusalReason,
    SickNoted,
    SickNotice,
    UsedRequest,
    decode_keep,
    encode,
)
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_rules import LIFE, UNKNOWN_DISK, DiskUse, ReplicaRules, room
from spegel_py.replicas.take_order import TakeFailed, TakeOrder, TakeProgress
from spegel_py.replicas.taker import ImageTaker
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

SLOTS = 2
"""Images that are taken at the same time at the request of other nodes."""

MAX_PENDING = 50
"""Requests that wait to be carried out. The speaker asks the next node then."""

MAX_PENDING_PER_PEER = 10
"""The same for the requests of one peer."""

MAX_FAILURES = 1000
"""Images whose failure is remembered."""

RETRY: Mapping[RefusalReason, float] = {
    RefusalReason.OFF: 3600.0,
    RefusalReason.FILTERED: 3600.0,
    RefusalReason.TOO_LARGE: 3600.0,
    RefusalReason.DISK: 600.0,
    RefusalReason.FAILED: 300.0,
    RefusalReason.FULL: 60.0,
    RefusalReason.DRAINING: 300.0,
}
"""Seconds after which a refused request may be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSnapshot:
    """This node's replicas and disk at its last scan.

    Args:
        held: the manifests of its replicas.
        used: the Unix times at which its runtime last had each image.
        heat: the heat of its images.
        disk: the use of its disk.
    """

    held: frozenset[Digest] = frozenset()
    used: Mapping[Digest, float] = field(default_factory=dict)
    heat: Mapping[Digest, float] = field(default_factory=dict)
    disk: DiskUse = UNKNOWN_DISK


@dataclass(slots=True, eq=False)
class PendingKeep:
    """An accepted request: its sender, and the progress of its image."""

    request: KeepRequest
    peer: str
    progress: TakeProgress


def refusal(
    request: KeepRequest,
    *,
    peer: str,
    snapshot: KeeperSnapshot,
    pending: Mapping[Digest, PendingKeep],
    rules: ReplicaRules,
    filters: Filters,
) -> RefusalReason | None:
    """Return the reason why this node does not keep an image; None if it does. Pure."""
    if rules.floor == 0:
        return RefusalReason.OFF
    names = [*request.names] or [f"{request.repository}@{request.root}"]
    if not any(rules.selects(name) and not filters.exclude(name) for name in names):
        return RefusalReason.FILTERED
    if request.size > rules.max_image:
        return RefusalReason.TOO_LARGE
    queued = sum(one.request.size for one in pending.values())
    if request.size + queued > room(snapshot.disk, rules):
        return RefusalReason.DISK
    if (
        len(pending) >= MAX_PENDING
        or Counter(one.peer for one in pending.values())[peer] >= MAX_PENDING_PER_PEER
    ):
        return RefusalReason.FULL
    return None


class KeepQueue:
    """The requests to this node.

    Args:
        wall: Unix time.
        monotonic: seconds.
    """

    def __init__(
        self,
        *,
        taker: ImageTaker,
        rules: ReplicaRules,
        filters: Filters,
        metrics: ReplicaMetrics,
        drain: DrainState | None = None,
        heat: ImageHeat | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._taker = taker
        self._rules = rules
        self._filters = filters
        self._metrics = metrics
        self._drain = drain or DrainState()
        self._heat = heat or ImageHeat()
        self._wall = wall
        self._monotonic = monotonic
        self.snapshot = KeeperSnapshot()
        """The state that requests are judged by; the keeper replaces it."""
        self._lock = threading.Lock()  # requests come in any thread
        self._pending: dict[Digest, PendingKeep] = {}
        self._failed: BoundedDict[Digest, tuple[float, TakeFailed]] = BoundedDict(
            limit=MAX_FAILURES
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._started: set[Digest] = set()
        self.on_sick: Callable[[str, str], None] = lambda peer, why: None
        """Is called in any thread with a peer that expects this node to fail, and its reason."""
        self.on_action: OnAction = ignore_action
        """Is called with the record of each image that was taken, or was not."""

    def __repr__(self) -> str:
        return f"<KeepQueue {len(self._pending)} pending>"

    @property
    def pending(self) -> tuple[PendingKeep, ...]:
        """The accepted requests that are not done yet."""
        with self._lock:
            return tuple(self._pending.values())

    def describe(self) -> list[Mapping[str, object]]:
        """Return the accepted requests that are not done yet, as `/debug/replicas` serves them."""
        return [
            {
                "manifest": str(one.request.manifest),
                "names": sorted(one.request.names) or [str(one.request.reference)],
                "reason": one.request.reason.value,
                "peer": one.peer,
                "offset": one.progress.done,
                "total": one.progress.total or one.request.size,
            }
            for one in self.pending
        ]

    def handle(self, peer: str, raw: bytes) -> bytes:
        """Return the answer to a peer's message, in any thread. Raises MessageError."""
        match message := decode_keep(raw):
            case UsedRequest(manifest):
                snapshot = self.snapshot
                used = max(0.0, snapshot.used.get(manifest, 0.0))
                return encode(ImageUsed(used, snapshot.heat.get(manifest, 0.0)))
            case SickNotice(why):
                self.on_sick(peer, why)
                return encode(SickNoted())
            case KeepRequest():
                return encode(self.answer(peer, message))
        raise MessageError("no request")  # pragma: no cover - decode_keep knows no other

    def answer(self, peer: str, request: KeepRequest) -> KeepAnswer:
        """Accept or refuse a request of a peer, in any thread."""
        snapshot, manifest = self.snapshot, request.manifest
        if manifest in snapshot.held:
            return ImageKept()
        with self._lock:
            if (known := self._pending.get(manifest)) is not None:
                return ImageTaking(known.progress.done, known.progress.total or 0)
            until, failure = self._failed.get(manifest, (0.0, None))
            if (left := until - self._monotonic()) > 0:
                detail = "" if failure is None else failure.why.value
                return KeepRefused(RefusalReason.FAILED, left, detail)
            why = RefusalReason.DRAINING if self._drain.is_draining else None
            why = why or refusal(
                request,
                peer=peer,
                snapshot=snapshot,
                pending=self._pending,
                rules=self._rules,
                filters=self._filters,
            )
            if why is not None:
                return KeepRefused(why, RETRY[why])
            progress = TakeProgress(self._order(request))
            self._pending[manifest] = PendingKeep(request, peer, progress)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)
        return ImageTaking(0, 0)

    async def run(self) -> None:
        """Take the accepted images until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            for number in range(SLOTS):
                tasks.create_task(self._work(), name=f"replica slot {number}")

    async def _work(self) -> None:
        while True:
            one = self._next()
            if one is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await self._take(one)
            finally:
                with self._lock:
                    del self._pending[one.request.manifest]
                    self._started.discard(one.request.manifest)

    def _next(self) -> PendingKeep | None:
        with self._lock:
            for manifest, one in self._pending.items():
                if manifest not in self._started:
                    self._started.add(manifest)
                    return one
        return None

    async def _take(self, one: PendingKeep) -> None:
        request, began = one.request, self._monotonic()
        about = {"manifest": str(request.manifest), "repository": request.repository}
        log.info("replica requested", peer=one.peer, bytes=request.size, **about)
        try:
            report = await self._taker.take(one.progress.order, progress=one.progress)
        except TakeFailed as error:
            log.warning("replica not taken", why=error.why.value, error=str(error), **about)
            self._metrics.taken(request.reason, error.why.value, received=one.progress.received)
            self._record(one, error.why.value, began)
            until = self._monotonic() + RETRY[RefusalReason.FAILED]
            with self._lock:
                self._failed[request.manifest] = until, error
            return
        except Exception:  # a fault here must not end the node
            log.exception("replica not taken", **about)
            return
        self._metrics.taken(request.reason, "taken", received=report.received)
        self._record(one, "done", began)
        seconds = round(self._monotonic() - began, 3)
        log.info("replica taken", bytes=report.received, seconds=seconds, **about)
        before = self.snapshot
        self.snapshot = replace(before, held=before.held | {request.manifest})
        if request.heat:
            self._heat.learn(request.manifest, request.heat)

    def _record(self, one: PendingKeep, outcome: str, began: float) -> None:
        record = action_record(
            "take",
            one.request.manifest,
            at=self._wall(),
            why=one.request.reason,
            outcome=outcome,
            count=one.progress.received,
        )
        seconds = round(self._monotonic() - began, 3)
        self.on_action({**record, "seconds": seconds, "peer": one.peer})

    def _order(self, request: KeepRequest) -> TakeOrder:
        now = self._wall()
        return TakeOrder(
            reference=request.reference,
            reason=request.reason,
            expires=now + LIFE,
            manifest=request.manifest,
            names=request.names,
            used=min(now, request.used),
            max_size=self._rules.max_image,
        )
