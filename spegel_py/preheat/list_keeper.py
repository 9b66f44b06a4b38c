"""Keeps the images of the pre-heat list on this node, while they are listed.

Every node has the list and decides for itself whether it is meant, so no node is in charge, and a
new node takes part by itself. The file is read again when it changes. A file that cannot be read
changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiofiles
import structlog

from spegel_py.errors import ConfigError, StoreUnavailable
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.local_preheat import ImageOrder, LocalPreheat
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.preheat.node_choice import KnownNode, is_meant
from spegel_py.preheat.preheat_fault import PreheatFailed, PreheatFault
from spegel_py.preheat.preheat_job import GOOD, NodeProgress, PreheatStage
from spegel_py.preheat.preheat_list import MAX_FILE, ListEntry, parse_list
from spegel_py.preheat.preheat_messages import ListedTag
from spegel_py.preheat.preheat_request import PreheatDepth
from spegel_py.preheat.registry_lookup import RegistryLookup, ResolvedImage
from spegel_py.telemetry.logging import FaultLog

log = structlog.get_logger(__name__)

LOOK = 5.0
"""Seconds between two looks at the file's time of change."""

CHECK = 60.0
"""Seconds between two looks at one image: is this node still meant, is the image still here."""

LIFE = 2 * 86_400.0
"""Seconds that the store keeps a listed image without a renewal. An image that left the list while
the node was away is released then."""

RENEWAL = 86_400.0
"""Seconds before its time is over at which an image is renewed."""

AGAIN = 300.0
"""Seconds after which a fault that stays, such as an unknown image, is tried again."""

MAX_FAULTS = 20
"""Images that are reported with their faults: one cause, such as wrong credentials, has many."""

_JITTER = (0.8, 1.2)


@dataclass(slots=True)
class _Listed:
    """An entry of the list, and what this node has of it.

    `fault` is the last fault that stays, with its kind, until the image is here.
    """

    entry: ListEntry
    progress: NodeProgress = field(default_factory=NodeProgress)
    digest: Digest | None = None
    seen: float | None = None
    is_meant: bool | None = None
    resolved: float = 0.0
    fault: str = ""
    task: asyncio.Task[None] | None = None


class ListKeeper:
    """The images of one list.

    Args:
        path: the file.
        own: this node.
        others: returns the other nodes.
        ask: returns the digest that another node's registry gave it for a tag; None if it does not
            tell.
        longest: seconds from the start for which a missing image may keep the node from being
            ready.
    """

    def __init__(
        self,
        *,
        path: Path,
        own: KnownNode,
        others: Callable[[], Collection[KnownNode]],
        ask: Callable[[str, Reference], Awaitable[ListedTag | None]],
        local: LocalPreheat,
        lookup: RegistryLookup,
        metrics: PreheatMetrics,
        longest: float,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._own = own
        self._others = others
        self._ask = ask
        self._local = local
        self._lookup = lookup
        self._metrics = metrics
        self._rng = rng
        self._clock = clock
        self._monotonic = monotonic
        self._ready_by = monotonic() + longest
        self._is_ready = longest == 0
        self._listed: dict[ListEntry, _Listed] = {}
        self._stamp: object = None
        self._reads = 0
        self._faults = FaultLog(log)
        self.fault = ""
        """The fault of the file, as of the last look; empty if it was read."""

    def __repr__(self) -> str:
        return f"<ListKeeper {self.path} {len(self._listed)} images>"

    def describe(self) -> Mapping[str, object]:
        """Return the list with the state of each image on this node, as JSON."""
        self._local.refresh()
        return {
            "file": str(self.path),
            "fault": self.fault,
            "images": [
                {
                    "image": str(one.entry.image),
                    "digest": str(one.digest) if one.digest else None,
                    "nodes": str(one.entry.nodes),
                    "meant": one.is_meant,
                    **one.progress.as_json(),
                }
                for one in self._listed.values()
            ],
        }

    def faults(self) -> Mapping[str, str]:
        """Return the fault of the file, and those of images, by the file or the image."""
        found = {str(self.path): f"{self.fault}; the old list stays"} if self.fault else {}
        for one in self._listed.values():
            if one.fault and len(found) < MAX_FAULTS:
                found[str(one.entry.image)] = one.fault
        return found

    def not_ready(self) -> str | None:
        """Return the reason why the node is not ready; None if it is.

        Once it was ready, or its time is over, no image keeps it from being ready.
        """
        if self._is_ready or self._monotonic() >= self._ready_by:
            return None
        if not self._reads:
            return None if self.fault else "the pre-heat list was not read yet"
        missing = [
            str(one.entry.image)
            for one in self._listed.values()
            if one.entry.ready and one.is_meant is not False and one.progress.stage not in GOOD
        ]
        if not missing:
            self._is_ready = True
            return None
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"images of the pre-heat list are not here yet: {', '.join(missing[:3])}{more}"

    async def run(self) -> None:
        """Follow the file until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    await self._look(tasks)
                except Exception as error:  # noqa: BLE001 - a fault here must not end the node
                    self._faults.log_once("preheat list was not read", error)
                await asyncio.sleep(LOOK)

    # The file

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        """Read the file if it changed."""
        try:
            found = await asyncio.to_thread(self.path.stat)
            stamp: object = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError as error:
            stamp = error.errno
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            entries = await self._read()
        except ConfigError as error:
            self.fault = str(error)
            log.warning("preheat list is wrong", error=self.fault, kept=len(self._listed))
            return
        self.fault, self._reads = "", self._reads + 1
        await self._change(entries, tasks)

    async def _read(self) -> tuple[ListEntry, ...]:
        try:
            async with aiofiles.open(self.path, "rb") as file:
                data = await file.read(MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(f"--preheat-file: {self.path}: {error.strerror}") from error
        return parse_list(data, where=f"--preheat-file: {self.path}")

    async def _change(self, entries: tuple[ListEntry, ...], tasks: asyncio.TaskGroup) -> None:
        """Begin with the new entries, and end those that have gone."""
        gone = [one for entry, one in self._listed.items() if entry not in entries]
        for one in gone:
            del self._listed[one.entry]
        for entry in entries:
            if entry not in self._listed:
                one = self._listed[entry] = _Listed(entry)
                one.task = tasks.create_task(self._keep(one), name=f"preheat {entry.image}")
        log.info("preheat list read", path=str(self.path), images=len(entries), gone=len(gone))
        for one in gone:
            if one.task is not None:
                one.task.cancel()
                await asyncio.wait([one.task])
        for one in gone:
            if one.digest is not None and not self._is_claimed(one.digest):
                await self._drop(one.digest)

    def _is_claimed(self, digest: Digest) -> bool:
        return any(one.digest == digest for one in self._listed.values())

    # One image

    async def _keep(self, one: _Listed) -> None:
        """Keep one image here while it is listed."""
        while True:
            try:
                pause = await self._check(one)
            except StoreUnavailable:
                pause = CHECK  # the watcher has logged it
            except Exception as error:  # noqa: BLE001 - one image must not end the others
                log.error("preheat failed", image=str(one.entry.image), error=repr(error))
                pause = AGAIN
            await asyncio.sleep(pause * self._rng.uniform(*_JITTER))

    async def _check(self, one: _Listed) -> float:
        """Look at one image, and fetch, renew or drop it; return the seconds to the next look."""
        entry, digest = one.entry, one.digest
        stamp = self._lookup.changed(entry.credentials)
        if digest is None or self._is_refresh_due(one):
            try:
                found = await self._resolve(one)
            except PreheatFailed as error:
                return await self._failed(one, error, stamp)
            digest, one.seen = found.digest, found.seen
            await self._resolved(one, digest)
        one.is_meant = is_meant(entry.nodes, digest, own=self._own, others=self._others())
        if not one.is_meant:
            await self._drop(digest)
            one.progress = NodeProgress()
            return CHECK
        if not self._is_fresh(one, digest):
            await self._fetch(one, digest)
        return CHECK if one.progress.stage in GOOD else await self._wait(entry, stamp)

    async def _resolve(self, one: _Listed) -> ResolvedImage:
        """Return the digest of an image. Raises PreheatFailed.

        A tag that is looked at again is asked for at the registry by one node, the first in a
        ranking by the tag, from which the others take its digest. If it does not tell, or knows
        only an older digest, each asks for itself.
        """
        entry = one.entry
        if one.digest is not None and (speaker := self._speaker(entry)) != self._own.id:
            tag = await self._ask(speaker, entry.image)
            if tag is not None and tag.seen >= (one.seen or 0.0):
                return ResolvedImage(tag.digest, min(tag.seen, self._clock()))
        return await self._lookup.resolve(entry.image, name=entry.credentials)

    def _speaker(self, entry: ListEntry) -> str:
        """Return the node that asks the registry for a tag of the list."""
        nodes = [self._own.id, *(one.id for one in self._others())]
        return ranked_nodes(Digest.of(str(entry.image).encode()), nodes, 1)[0]

    def listed_tag(self, image: Reference) -> ListedTag | None:
        """Return the digest of a tag of the list, if the registry has given it to this node.

        May be called in any thread.
        """
        for one in list(self._listed.values()):
            if one.entry.image == image and one.digest and one.seen is not None:
                return ListedTag(one.digest, one.seen)
        return None

    def _is_refresh_due(self, one: _Listed) -> bool:
        refresh = one.entry.refresh
        return refresh is not None and self._monotonic() - one.resolved >= refresh

    async def _resolved(self, one: _Listed, digest: Digest) -> None:
        """Record the digest of a tag. If the tag moved, its old image goes after the new one."""
        before, one.digest, one.resolved = one.digest, digest, self._monotonic()
        if before in (None, digest):
            return
        log.info("preheat tag moved", image=str(one.entry.image), digest=str(digest))
        one.progress = NodeProgress()
        if before is not None and not self._is_claimed(before):
            await self._drop(before)

    def _is_fresh(self, one: _Listed, digest: Digest) -> bool:
        """Return True if the image is here, and its renewal is not due.

        An image that the runtime pulled is the kubelet's: it is not pulled again once it is
        removed.
        """
        if not self._local.is_claimed(digest):
            return False
        if one.entry.depth is PreheatDepth.RUNTIME:
            due = self._local.pinned_until(digest) - RENEWAL
            return one.progress.stage in GOOD and (not one.entry.pin or due > self._clock())
        replica = self._local.replica_of(digest)
        if replica is None or replica.expires - self._clock() <= RENEWAL:
            return False
        is_content_only = one.progress.why == PreheatFault.CONTENT_ONLY
        return (
            one.entry.depth is not PreheatDepth.UNPACKED or replica.is_unpacked or is_content_only
        )

    async def _fetch(self, one: _Listed, digest: Digest) -> None:
        order = ImageOrder(
            image=one.entry.image,
            digest=digest,
            seen=one.seen,
            platform=one.entry.platform,
            expires=self._clock() + LIFE,
            rate=one.entry.rate,
            credentials=one.entry.credentials,
            depth=one.entry.depth,
            pin=one.entry.pin,
        )
        before = one.progress.stage
        one.progress = one.progress if before in GOOD else NodeProgress()
        await self._local.preheat(order, one.progress, owner=OWNER)
        if one.progress.stage is not before:
            self._metrics.ended(one.progress.stage)
        is_here = one.progress.stage in GOOD
        one.fault = "" if is_here else f"{one.progress.why}: {one.progress.error}"

    async def _failed(self, one: _Listed, error: PreheatFailed, stamp: int) -> float:
        """Record that a tag cannot be resolved; return the seconds to the next try."""
        if not error.is_temporary and one.progress.why != error.fault:
            self._metrics.ended(PreheatStage.FAILED)
        if one.progress.stage not in GOOD:
            one.progress.end(PreheatStage.WAITING, why=error.fault.value, error=str(error))
        log.info(
            "preheat failed",
            image=str(one.entry.image),
            why=error.fault.value,
            error=str(error),
        )
        if error.is_temporary:
            return CHECK / 4
        one.fault = f"{error.fault.value}: {error}"
        return await self._wait(one.entry, stamp)

    async def _wait(self, entry: ListEntry, stamp: int) -> float:
        """Wait for AGAIN seconds, or until the list or the credentials changed; return 0."""
        until, reads = self._monotonic() + AGAIN, self._reads
        while self._monotonic() < until:
            if self._reads != reads or self._lookup.changed(entry.credentials) != stamp:
                break
            await asyncio.sleep(LOOK)
        return 0.0

    async def _drop(self, digest: Digest) -> None:
        try:
            await self._local.drop(digest, owner=OWNER)
        except StoreUnavailable as error:
            log.info("preheat not dropped", image=str(digest), error=str(error))


OWNER = "list"
"""The owner of listed images, among those that may want an image here."""
