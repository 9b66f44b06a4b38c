"""Fetches an image onto this node and keeps it, tries again after a fault, and drops it."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from spegel_py.errors import (
    ContentNotFound,
    ManifestInvalid,
    PeerRefused,
    StoreFull,
    StoreUnavailable,
    UnpackUnsupported,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.reference import Reference
from spegel_py.preheat.preheat_fault import PreheatFailed, PreheatFault, fault_of
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.preheat.preheat_request import PreheatDepth
from spegel_py.preheat.registry_lookup import RegistryLookup
from spegel_py.preheat.runtime_pulls import RuntimePulls
from spegel_py.pull.plan import Platform
from spegel_py.pull.session import PARALLEL
from spegel_py.replicas.replica_rules import LIFE, SHRINK_FROM, SHRINK_TO, DiskUse
from spegel_py.replicas.take_order import TakeFailed, TakeFault, TakeOrder, TakeProgress, TakeReport
from spegel_py.replicas.taker import ImageTaker
from spegel_py.store.base import Replica, ReplicaReason, Replicas
from spegel_py.tools.backoff import Backoff

log = structlog.get_logger(__name__)

AT_ONCE = 2
"""Images that are fetched at the same time."""

PAUSE_FIRST, PAUSE_LAST = 1.0, 300.0
"""Seconds before a try after a temporary fault: the first pause, doubled up to the last."""

UNPACKED = 4
"""Bytes of the disk that an unpacked image needs for each byte of its content: packed, and once
more unpacked, at up to three times the size."""

EARLY = 60.0
"""Seconds by which an image is dropped before its time, because the store may delete it then."""

_JITTER = (0.7, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOrder:
    """An image that this node shall have.

    Args:
        image: the image as it was named.
        digest: the digest that the node takes.
        seen: the Unix time at which the registry gave this digest for the tag, which is then
            remembered; None if it did not.
        platform: the platform; None for this node's own.
        expires: the Unix time until which the image is kept.
        rate: bytes per second; 0 for no limit.
        credentials: a name of credentials; empty for config.json.
        is_for_peer: True if another node asks for the image. It gets the room of replicas.
        pin: True to pin an image that the runtime pulls.
    """

    image: Reference
    digest: Digest
    seen: float | None = None
    platform: Platform | None
    expires: float
    rate: int = 0
    credentials: str = ""
    is_for_peer: bool = False
    depth: PreheatDepth = PreheatDepth.CONTENT
    pin: bool = False


class LocalPreheat:
    """The images that this node fetches before a runtime asks for them.

    Args:
        taker: fetches what this node's user or list wants.
        peer_taker: fetches what other nodes ask for, into less room.
        runtime: has the runtime pull images.
        floor: the floor of replicas. With one, an image that is dropped becomes an ordinary
            replica, which the floor's rules keep or release.
    """

    def __init__(
        self,
        *,
        taker: ImageTaker,
        peer_taker: ImageTaker,
        replicas: Replicas,
        runtime: RuntimePulls,
        lookup: RegistryLookup,
        filters: Filters,
        floor: int,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._taker = taker
        self._peer_taker = peer_taker
        self._replicas = replicas
        self._runtime = runtime
        self._lookup = lookup
        self._filters = filters
        self._floor = floor
        self._rng = rng
        self._clock = clock
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._locks: weakref.WeakValueDictionary[Digest, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._takes: dict[int, tuple[NodeProgress, TakeProgress]] = {}
        self._owners: dict[Digest, set[str]] = {}

    def __repr__(self) -> str:
        return f"<LocalPreheat {len(self._takes)} under way>"

    async def preheat(self, order: ImageOrder, progress: NodeProgress, *, owner: str) -> None:
        """Fetch an image and keep it, until that succeeds or fails for good, as `progress` says.

        A fault that may be over is tried again after a pause. If this is cancelled, nothing is left
        of what it fetched. The image is kept until its time is over, or all owners dropped it.
        """
        pauses = Backoff(first=PAUSE_FIRST, most=PAUSE_LAST)
        while True:
            try:
                async with self._lock(order), self._slots:
                    if order.depth is PreheatDepth.RUNTIME:
                        await self._have_pulled(order, progress)
                    else:
                        await self._take(order, progress)
                    self.claim(order.digest, owner)
                return
            except PreheatFailed as error:
                why, text = error.fault.value, str(error)
                if not error.is_temporary:
                    stage = PreheatStage.REFUSED if error.is_refusal else PreheatStage.FAILED
                    progress.end(stage, why=why, error=text)
                    log.info("preheat failed", image=str(order.image), why=why, error=text)
                    return
                progress.stage, progress.why, progress.error = PreheatStage.WAITING, why, text
            await asyncio.sleep(pauses.next() * self._rng.uniform(*_JITTER))

    def refresh(self) -> None:
        """Update the progress of all images that are being fetched."""
        for progress, take in self._takes.values():
            progress.done, progress.total = take.done, take.total or 0
            progress.upstream = take.upstream

    def replica_of(self, digest: Digest) -> Replica | None:
        """Return the replica that was made for an image of this digest, by a pre-heat."""
        for replica in self.kept:
            if digest in (replica.image.root.digest, replica.image.manifest):
                return replica
        return None

    def claim(self, digest: Digest, owner: str) -> None:
        """Record that a job or the list wants an image here."""
        self._owners.setdefault(digest, set()).add(owner)

    def is_claimed(self, digest: Digest) -> bool:
        """Return True if anybody wants an image here."""
        return digest in self._owners

    def pinned_until(self, digest: Digest) -> float:
        """Return the Unix time at which an image's pin ends; 0 for none."""
        return self._runtime.pinned_until(digest)

    async def drop(self, digest: Digest, *, owner: str) -> None:
        """Stop keeping an image for an owner, and altogether if no other owner wants it.

        The floor of replicas may keep it. Raises StoreUnavailable.
        """
        owners = self._owners.get(digest, set())
        owners.discard(owner)
        if owners:
            return
        self._owners.pop(digest, None)
        await self._runtime.unpin(digest)
        if (replica := self.replica_of(digest)) is not None:
            await self._release(digest, replica)

    async def drop_expired(self) -> None:
        """Drop the images whose time is over. Raises StoreUnavailable."""
        await self._runtime.unpin_expired()
        now = self._clock()
        for replica in self.kept:
            if replica.expires <= now + EARLY:
                for digest in (replica.image.root.digest, replica.image.manifest):
                    self._owners.pop(digest, None)
                await self._release(replica.image.root.digest, replica)

    @property
    def kept(self) -> list[Replica]:
        """The replicas that a pre-heat made."""
        held = self._replicas.held().values()
        return [one for one in held if one.reason is ReplicaReason.PREHEAT]

    async def give_way(self, disk: DiskUse) -> None:
        """Release images, the largest first, while the disk is too full for the kubelet.

        With a floor of replicas its rules do that. Raises StoreUnavailable.
        """
        if disk.share < SHRINK_FROM:
            return
        for replica in sorted(self.kept, key=lambda one: -one.image.size):
            if disk.share <= SHRINK_TO:
                return
            freed = await self._replicas.release(replica.image.manifest)
            disk = dataclasses.replace(disk, used=disk.used - freed)
            self._owners.pop(replica.image.root.digest, None)
            log.warning("preheat gave way", image=str(replica.image.root.digest), freed=freed)

    async def _release(self, digest: Digest, replica: Replica) -> None:
        if self._floor:
            expires = round(self._clock() + LIFE)
            await self._replicas.hold(
                dataclasses.replace(
                    replica, reason=ReplicaReason.FLOOR, expires=expires, is_unpacked=False
                )
            )
        else:
            await self._replicas.release(replica.image.manifest)
        log.info("preheat dropped", image=str(digest), kept_by_floor=bool(self._floor))

    def _lock(self, order: ImageOrder) -> asyncio.Lock:
        """Return the lock of an image: two jobs may want it at the same time."""
        return self._locks.setdefault(order.digest, asyncio.Lock())

    async def _take(self, order: ImageOrder, progress: NodeProgress) -> None:
        self._check_filters(order.image)
        before = self.replica_of(order.digest)
        is_deep = order.depth is PreheatDepth.UNPACKED
        was_unpacked = before is not None and before.is_unpacked
        upstream, fault = await self._upstream(order)
        take_order = TakeOrder(
            reference=dataclasses.replace(order.image, digest=order.digest),
            reason=ReplicaReason.PREHEAT,
            expires=round(max(order.expires, before.expires if before else 0.0)),
            platform=order.platform,
            names={**(before.names if before else {}), **_name(order, self._clock())},
            upstream=upstream,
            rate=order.rate,
            parallel=PARALLEL,
            is_unpacked=was_unpacked,
            footprint=UNPACKED if is_deep and not was_unpacked else 1,
        )
        take = TakeProgress(take_order)
        progress.stage, progress.why, progress.error = PreheatStage.TAKING, "", ""
        self._takes[id(progress)] = progress, take
        try:
            taker = self._peer_taker if order.is_for_peer else self._taker
            report = await taker.take(take_order, progress=take)
        except TakeFailed as error:
            if fault is not None and error.why is TakeFault.NOT_FOUND:
                raise fault from error
            raise _fault(error) from error
        except StoreUnavailable as error:
            raise PreheatFailed(PreheatFault.STORE_AWAY, str(error)) from error
        finally:
            self.refresh()
            del self._takes[id(progress)]
        progress.done = progress.total = report.replica.image.size
        why, error_text = "", ""
        if is_deep and not was_unpacked:
            why, error_text = await self._unpack(report.replica, progress, is_new=before is None)
        was_here = _was_here(report) and (was_unpacked or not is_deep)
        stage = PreheatStage.HERE if was_here else PreheatStage.DONE
        progress.end(stage, why=why, error=error_text)
        log.info(
            "preheated",
            image=str(order.image),
            depth=order.depth.value,
            bytes=report.replica.image.size,
            received=report.received,
            upstream=report.upstream,
            seconds=round(report.seconds, 3),
        )

    async def _unpack(
        self, replica: Replica, progress: NodeProgress, *, is_new: bool
    ) -> tuple[str, str]:
        """Unpack an image that is here; return the fault and its text if only its content can be.

        Raises PreheatFailed. A new image is not kept then, nor after a cancellation.
        """
        manifest = replica.image.manifest
        progress.stage = PreheatStage.UNPACKING
        try:
            try:
                await self._replicas.unpack(manifest)
            except UnpackUnsupported as error:
                return PreheatFault.CONTENT_ONLY.value, str(error)
            except StoreFull as error:
                raise PreheatFailed(PreheatFault.NO_ROOM, str(error)) from error
            except ManifestInvalid as error:
                raise PreheatFailed(PreheatFault.BAD_MANIFEST, str(error)) from error
            except (StoreUnavailable, ContentNotFound) as error:
                raise PreheatFailed(PreheatFault.STORE_AWAY, str(error)) from error
        except BaseException:
            if is_new:
                with suppress(StoreUnavailable):  # its lease ends with its time
                    await asyncio.shield(self._replicas.release(manifest))
            raise
        return "", ""

    async def _have_pulled(self, order: ImageOrder, progress: NodeProgress) -> None:
        """Have the runtime pull an image. Raises PreheatFailed."""
        self._check_filters(order.image)
        await self._runtime.pull(
            order.image,
            order.digest,
            progress,
            platform=order.platform,
            credentials=await self._lookup.credentials(order.image, name=order.credentials),
            pin_until=order.expires if order.pin else None,
        )

    async def _upstream(self, order: ImageOrder) -> tuple[str | None, PreheatFailed | None]:
        """Return the URL of the registry, or the fault of its credentials.

        Peers are asked without the registry's credentials, so wrong ones matter only if no peer has
        the image.
        """
        try:
            return await self._lookup.url(order.image, name=order.credentials), None
        except PreheatFailed as error:
            return None, error

    def _check_filters(self, image: Reference) -> None:
        """Raise PreheatFailed for an image that the filters leave out."""
        if self._filters.exclude(image.name or f"{image.registry}/{image.repository}"):
            raise PreheatFailed(
                PreheatFault.FILTERED,
                f"{image} is not mirrored here: --registry-filters or --mirrored-registries leave "
                "it out",
            )


def _name(order: ImageOrder, now: float) -> dict[str, float]:
    """Return the image's name to remember, with its time.

    It is the tag if the registry gave the digest for it; otherwise the name by digest, by which
    other nodes can be asked for the image.
    """
    name = order.image.name
    if name is not None and order.seen is not None:
        return {name: order.seen}
    return {str(dataclasses.replace(order.image, tag=None, digest=order.digest)): now}


def _was_here(report: TakeReport) -> bool:
    """Return True if no more than the manifests came, which are read to know the image."""
    image = report.replica.image
    manifests = {image.manifest, image.root.digest}
    return report.received <= sum(one.size for one in image.blobs if one.digest in manifests)


def _fault(error: TakeFailed) -> PreheatFailed:
    """Return the fault of a take. The registry's status decides if it refused."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PeerRefused):
            return PreheatFailed(fault_of(cause).fault, str(error))
        cause = cause.__cause__
    return PreheatFailed(PreheatFault[error.why.name], str(error))
