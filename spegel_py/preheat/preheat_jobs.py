"""The pre-heat jobs of the node that was asked: it resolves the tags, chooses the nodes, and
follows them.

Jobs outlive a restart in a file below the data directory. A node goes on fetching although the node
that was asked has gone.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from spegel_py.errors import Busy, NotFound, RequestInvalid, StoreUnavailable
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest
from spegel_py.preheat.job_file import JobFile
from spegel_py.preheat.local_preheat import ImageOrder, LocalPreheat
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.preheat.node_choice import KnownNode, check, choose
from spegel_py.preheat.other_nodes import OtherNodes
from spegel_py.preheat.preheat_fault import PreheatFailed, PreheatFault
from spegel_py.preheat.preheat_job import (
    GOOD,
    JobImage,
    NodeProgress,
    PreheatJob,
    PreheatStage,
    kept,
)
from spegel_py.preheat.preheat_request import PreheatRequest
from spegel_py.preheat.registry_lookup import RegistryLookup, ResolvedImage
from spegel_py.preheat.sole_copies import SoleCopies
from spegel_py.pull.plan import Platform
from spegel_py.replicas.drain_state import DrainState
from spegel_py.telemetry.logging import FaultLog
from spegel_py.tools.backoff import Backoff

log = structlog.get_logger(__name__)

TICK = 1.0
"""Seconds between two looks at the progress, which are also written to the file."""

MAX_RUNNING = 32
"""Jobs that go on at the same time."""

PARALLEL = 32
"""Images of one job that are followed on other nodes at the same time."""

MAX_TRIED = 5
"""Nodes that are asked to take an image of a node that goes away."""


FROM_PEERS = (PreheatFault.NOT_FOUND, PreheatFault.NO_CREDENTIALS)
"""Faults that are over once a peer has the image."""


PEER_PAUSES = (2.0, 8.0)
"""Seconds before each further try then: the nodes learn in about a second that a peer has it."""


class PreheatJobs:
    """The jobs of one node.

    Args:
        folder: the data directory; None to keep the jobs in memory.
    """

    def __init__(
        self,
        *,
        own: KnownNode,
        local: LocalPreheat,
        others: OtherNodes,
        lookup: RegistryLookup,
        sole_copies: SoleCopies,
        folder: Path | None,
        metrics: PreheatMetrics,
        rng: random.Random,
        drain: DrainState | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._local = local
        self._others = others
        self._lookup = lookup
        self._sole_copies = sole_copies
        self._file = JobFile(folder)
        self._metrics = metrics
        self._rng = rng
        self._drain = drain or DrainState()
        self._clock = clock
        self.on_action: Callable[[Mapping[str, object]], None] = lambda record: None
        """Is called with the audit record of each action of a person or a program."""
        self._jobs: dict[str, PreheatJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._faults = FaultLog(log)
        self._is_dirty = False

    def __repr__(self) -> str:
        return f"<PreheatJobs {len(self._jobs)}, {len(self._tasks)} go on>"

    # Questions

    def counts(self) -> Mapping[str, int]:
        """Return the number of jobs by state."""
        return Counter(job.state.value for job in self._jobs.values())

    def describe(self, job: PreheatJob) -> dict[str, object]:
        """Return a job as JSON, as of now, with the names and addresses of its nodes."""
        self._local.refresh()
        addresses = {one.id: one.label for one in (self._own, *self._others.known())}
        return job.as_json() | {
            "nodes": {node: addresses.get(node, "") for image in job.images for node in image.nodes}
        }

    def all(self) -> list[PreheatJob]:
        """Return all jobs, the latest first."""
        return sorted(self._jobs.values(), key=lambda job: -job.created)

    def running(self) -> list[dict[str, object]]:
        """Return the jobs that go on as JSON, the latest first."""
        return [job.as_json() for job in self.all() if job.ended is None]

    def get(self, job_id: str) -> PreheatJob:
        """Return a job. Raises NotFound."""
        if (job := self._jobs.get(job_id)) is None:
            raise NotFound(f"there is no pre-heat job {job_id[:40]!r} on this node")
        return job

    # Actions

    async def submit(self, request: PreheatRequest, *, actor: str) -> PreheatJob:
        """Begin a job.

        Raises RequestInvalid for nodes that are not there, Busy for too many jobs.
        """
        check(request.nodes, own=self._own, others=self._others.known())
        if sum(job.ended is None for job in self._jobs.values()) >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} pre-heat jobs go on already; cancel one, or wait")
        job = PreheatJob(
            id=secrets.token_hex(4),
            actor=actor,
            request=request,
            created=self._clock(),
            images=[JobImage(reference) for reference in request.images],
        )
        return await self._add(job)

    async def evacuate(self, given: object, *, actor: str, is_forced: bool = True) -> PreheatJob:
        """Begin a job that brings each image which only this node has to another node.

        Raises RequestInvalid, StoreUnavailable.

        Args:
            given: a JSON object with `keep` and `timeout`.
            is_forced: False to raise RequestInvalid if there is no such image.
        """
        if not self._staying():
            raise RequestInvalid("there is no other node that could take the images")
        copies = await self._sole_copies.find()
        if not copies and not is_forced:
            raise RequestInvalid("other nodes have all images of this node")
        request = PreheatRequest.of_evacuation(
            given, images=tuple(one.reference for one in copies), platform=Platform.here()
        )
        job = PreheatJob(
            id=secrets.token_hex(4),
            actor=actor,
            request=request,
            created=self._clock(),
            images=[JobImage(one.reference, one.root, one.seen) for one in copies],
            is_evacuation=True,
        )
        return await self._add(job)

    def is_evacuating(self) -> bool:
        """Return True while an evacuation goes on."""
        return any(job.is_evacuation and job.ended is None for job in self._jobs.values())

    async def evacuated(self, timeout: float) -> bool:
        """Wait for the end of all evacuations, for `timeout` seconds at most.

        Return False if one still goes on.
        """
        tasks = [task for job, task in self._tasks.items() if self._jobs[job].is_evacuation]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        return not self.is_evacuating()

    async def _add(self, job: PreheatJob) -> PreheatJob:
        self._jobs[job.id] = job
        self._record(job, job.action, "begun", job.actor)
        await self._save()
        self._start(job)
        return job

    async def cancel(self, job_id: str, *, actor: str) -> PreheatJob:
        """End a job, and drop its images on all its nodes, unless another job or a list wants them.

        Raises NotFound.
        """
        job = self.get(job_id)
        job.is_cancelled = True
        if (task := self._tasks.get(job.id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        elif job.ended is None:
            job.close(self._clock())
        drops = [
            self._drop(job, node, image.digest)
            for image in job.images
            if image.digest is not None
            for node in image.nodes
        ]
        await asyncio.gather(*drops)
        self._record(job, "cancel", "done", actor)
        await self._save()
        return job

    async def run(self) -> None:
        """Go on with the jobs of earlier lives and with new ones, until cancelled."""
        await self._load()
        try:
            async with asyncio.TaskGroup() as self._group:
                for job in list(self._jobs.values()):
                    if job.ended is None:
                        self._start(job)
                while True:
                    await asyncio.sleep(TICK)
                    await self._tick()
        finally:
            self._group = None
            await self._save()

    async def _tick(self) -> None:
        try:
            await self._local.drop_expired()
        except StoreUnavailable:
            pass  # the watcher has logged it
        except Exception as error:  # noqa: BLE001 - a fault here must not end the node
            self._faults.log_once("preheated images were not dropped", error)
        self._local.refresh()
        if self._is_dirty or any(job.ended is None for job in self._jobs.values()):
            self._is_dirty = False
            await self._save()

    # A job

    def _start(self, job: PreheatJob) -> None:
        if self._group is None or job.id in self._tasks or job.ended is not None:
            return  # `run` starts it, or has started it
        task = self._group.create_task(self._work(job), name=f"preheat {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    async def _work(self, job: PreheatJob) -> None:
        try:
            slots = asyncio.Semaphore(PARALLEL)
            async with asyncio.timeout(max(0.0, job.deadline - self._clock())):
                async with asyncio.TaskGroup() as images:
                    for image in job.images:
                        images.create_task(self._preheat(job, image, slots))
        except TimeoutError:
            job.is_expired = True
        except asyncio.CancelledError:
            if not job.is_cancelled:
                raise  # the node ends; its next life goes on
        job.close(self._clock())
        self._is_dirty = True
        if not job.is_cancelled:
            self._record(job, job.action, job.state.value, job.actor)
        log.info("preheat job over", job=job.id, state=job.state.value)

    async def _preheat(self, job: PreheatJob, image: JobImage, slots: asyncio.Semaphore) -> None:
        """Carry out one image of a job on all its nodes."""
        try:
            if image.digest is None:
                found = await self._resolve(job, image)
                image.digest, image.seen, image.error = found.digest, found.seen, ""
            carry_out = self._evacuate if job.is_evacuation else self._preheat_everywhere
            await carry_out(job, image, image.digest, slots)
        except PreheatFailed as error:
            image.why, image.error = error.fault.value, str(error)
            log.info("preheat failed", image=str(image.reference), why=image.why, error=image.error)
        except Exception as error:  # noqa: BLE001 - one image must not end the others
            image.why, image.error = PreheatFault.INTERNAL.value, repr(error)[:200]
            log.error("preheat failed", image=str(image.reference), error=repr(error))

    async def _resolve(self, job: PreheatJob, image: JobImage) -> ResolvedImage:
        """Return the digest of an image. Temporary faults are retried until the job's end."""
        pauses = Backoff(first=1.0, most=60.0)
        while True:
            try:
                return await self._lookup.resolve(image.reference, name=job.request.credentials)
            except PreheatFailed as error:
                if not error.is_temporary:
                    raise
                image.error = str(error)
            await asyncio.sleep(pauses.next() * self._rng.uniform(0.7, 1.0))

    async def _evacuate(
        self, job: PreheatJob, image: JobImage, digest: Digest, slots: asyncio.Semaphore
    ) -> None:
        """Have one other node fetch an image: the first of the ranking that does."""
        if any(one.stage in GOOD for one in image.nodes.values()):
            return
        for node in ranked_nodes(digest, self._staying(), MAX_TRIED):
            progress = NodeProgress()
            image.nodes = {node: progress}
            await self._preheat_on(job, image, digest, node, progress, slots)
            if progress.stage in GOOD:
                return

    def _staying(self) -> list[str]:
        """Return the ids of the other nodes that can be asked, and do not drain."""
        leaving = self._drain.leaving_peers
        return [one.id for one in self._others.known() if one.id not in leaving]

    async def _preheat_everywhere(
        self, job: PreheatJob, image: JobImage, digest: Digest, slots: asyncio.Semaphore
    ) -> None:
        """Choose the nodes of an image, and have each fetch it.

        A node that could not fetch it from the registry tries again if another node could.
        """
        if not image.nodes:
            others = self._others.known()
            nodes = choose(job.request.nodes, digest, own=self._own, others=others)
            image.nodes = {node: NodeProgress() for node in nodes}
        await self._preheat_on_all(job, image, digest, slots)
        for pause in PEER_PAUSES:
            late = [one for one in image.nodes.values() if one.why in FROM_PEERS]
            if not late or not any(one.stage in GOOD for one in image.nodes.values()):
                return
            await asyncio.sleep(pause)
            for one in late:
                one.copy(NodeProgress())
            await self._preheat_on_all(job, image, digest, slots)

    async def _preheat_on_all(
        self, job: PreheatJob, image: JobImage, digest: Digest, slots: asyncio.Semaphore
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            for node, progress in image.nodes.items():
                if not progress.is_over:
                    tasks.create_task(self._preheat_on(job, image, digest, node, progress, slots))

    async def _preheat_on(
        self,
        job: PreheatJob,
        image: JobImage,
        digest: Digest,
        node: str,
        progress: NodeProgress,
        slots: asyncio.Semaphore,
    ) -> None:
        order = ImageOrder(
            image=image.reference,
            digest=digest,
            seen=image.seen,
            platform=job.request.platform,
            expires=job.expires,
            rate=job.request.rate,
            credentials=job.request.credentials,
            depth=job.request.depth,
            pin=job.request.pin,
        )
        try:
            if node == self._own.id:
                await self._local.preheat(order, progress, owner=job.id)
            else:
                async with slots:
                    await self._others.preheat(node, job.id, order, progress, until=job.deadline)
        except Exception as error:  # noqa: BLE001 - one node must not end the job
            log.error("preheat failed", image=str(image.reference), node=node, error=repr(error))
            progress.end(
                PreheatStage.FAILED, why=PreheatFault.INTERNAL.value, error=repr(error)[:200]
            )
        if node == self._own.id or progress.stage is PreheatStage.LOST:
            self._metrics.ended(progress.stage)  # another node counts for itself

    async def _drop(self, job: PreheatJob, node: str, digest: Digest) -> None:
        """Drop an image on one node. A node that cannot be reached keeps it until its time."""
        if node != self._own.id:
            await self._others.drop(node, job.id, digest)
            return
        with suppress(StoreUnavailable):
            await self._local.drop(digest, owner=job.id)

    def _record(self, job: PreheatJob, action: str, outcome: str, actor: str) -> None:
        self.on_action(
            {
                "time": round(self._clock(), 3),
                "actor": actor,
                "action": action,
                "job": job.id,
                "images": [str(image.reference) for image in job.images],
                "nodes": str(job.request.nodes),
                "outcome": outcome,
                "bytes": sum(one.done for one in job.all_nodes() if one.stage is PreheatStage.DONE),
                "seconds": round(self._clock() - job.created, 3),
            }
        )

    # The file

    async def _save(self) -> None:
        self._jobs = {job.id: job for job in kept(self._jobs.values())}
        await self._file.save(list(self._jobs.values()))

    async def _load(self) -> None:
        for job in await self._file.load():
            for one in job.all_nodes():
                if one.stage in (PreheatStage.TAKING, PreheatStage.UNPACKING):
                    one.stage = PreheatStage.WAITING
            for image in job.images:
                here = image.nodes.get(self._own.id)
                if image.digest and here and here.stage in GOOD and not job.is_cancelled:
                    self._local.claim(image.digest, job.id)
            self._jobs.setdefault(job.id, job)
