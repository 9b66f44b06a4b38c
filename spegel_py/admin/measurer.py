"""Measuring a pull: an image is pulled through the node's own mirror, and its bytes are dropped.

A measurement shows the duration, and the source of each manifest and blob: this node, a peer, or
nobody, so that a runtime would have gone to the registry. Manifests are verified. Blobs are
verified only by their length, since hashing them would measure this processor. A measurement goes
on after a part that is missing or fails, so that it shows all parts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Literal

import structlog

from spegel_py.admin.measurement import MeasuredPart, Measurement
from spegel_py.errors import (
    BlobUnknown,
    ConfigError,
    ManifestUnknown,
    NameInvalid,
    Occupied,
    SpegelError,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.manifest import INDEXES, MANIFESTS, Child
from spegel_py.oci.reference import Reference
from spegel_py.outcomes import ContentSource
from spegel_py.pull import Platform, plan
from spegel_py.pull.mirror_client import Manifest, MirrorClient, PullDeadlines
from spegel_py.pull.session import DEPTH, PARALLEL

log = structlog.get_logger(__name__)

INTERVAL = 0.25
"""Seconds between two reports of a measurement."""


async def measure(
    reference: Reference,
    *,
    mirror: str,
    platform: Platform | None = None,
    parallel: int = PARALLEL,
    deadlines: PullDeadlines | None = None,
    interval: float = INTERVAL,
) -> AsyncGenerator[Measurement, None]:
    """Yield the same measurement every `interval` seconds while it grows, and once at the end.

    Close the generator to end the measurement. An error of the pull is a part of the measurement.

    Args:
        mirror: URL of the registry that is measured.
        platform: the platform of an index that is pulled; None for this machine's.
    """
    measurement = Measurement(reference=str(reference), at=time.time())
    began = time.monotonic()
    pull = _Pull(measurement, platform or Platform.here())
    async with MirrorClient(
        mirror=mirror, reference=reference, deadlines=deadlines, client=PullClient.MEASURE
    ) as client:
        running = asyncio.create_task(pull.run(reference, client, parallel), name="measure")
        try:
            while not running.done():
                measurement.seconds = time.monotonic() - began
                yield measurement
                await asyncio.wait([running], timeout=interval)
            running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    yield measurement


class _Pull:
    """Pulls an image from its root down, and records each part in a measurement."""

    def __init__(self, measurement: Measurement, platform: Platform) -> None:
        self._measurement = measurement
        self._platform = platform
        self._manifests: list[Manifest] = []

    async def run(self, reference: Reference, client: MirrorClient, parallel: int) -> None:
        began = time.monotonic()
        try:
            await self._walk(reference, client)
            blobs = plan.blobs(
                one.data for one in self._manifests if one.child.media_type not in INDEXES
            )
            parts = [self._part("blob", blob) for blob in blobs]
            waiting = iter(zip(parts, blobs, strict=True))

            async def work() -> None:
                for part, blob in waiting:
                    await _fetch(client, part, blob)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(parallel):
                    tasks.create_task(work())
        except ConfigError as error:  # the list of platforms is left to the command `pull`
            self._measurement.error = str(error).partition(";")[0]
        except SpegelError as error:
            self._measurement.error = str(error)
        finally:
            self._measurement.seconds = time.monotonic() - began
            self._measurement.is_over = True

    async def _walk(self, reference: Reference, client: MirrorClient) -> None:
        digest = reference.digest or await self._resolve(client, reference.tag or "")
        if digest is not None:
            await self._descend(client, Child(digest, 0, ""), 0)

    async def _resolve(self, client: MirrorClient, tag: str) -> Digest | None:
        """Return the digest of a tag; None if no node knows it, which is recorded as a part."""
        part = MeasuredPart(kind="manifest", digest=None)
        with _recording(part):
            found = await client.resolve(tag)
            return found.child.digest if isinstance(found, Manifest) else found.digest
        self._measurement.parts.append(part)
        return None

    async def _descend(self, client: MirrorClient, child: Child, depth: int) -> None:
        part = self._part("manifest", child)
        with _recording(part):
            manifest = await client.manifest(child.digest, child.media_type)
            part.size = part.moved = manifest.child.size
            _record_source(part, manifest.peer)
            self._manifests.append(manifest)
        if (
            part.error
            or part.source == "none"
            or manifest.child.media_type not in INDEXES
            or depth >= DEPTH
        ):
            return
        for below in plan.select(manifest.data, self._platform):
            if not below.media_type or below.media_type in MANIFESTS:
                await self._descend(client, below, depth + 1)

    def _part(self, kind: Literal["manifest", "blob"], child: Child) -> MeasuredPart:
        part = MeasuredPart(kind=kind, digest=str(child.digest), size=child.size)
        self._measurement.parts.append(part)
        return part


async def _fetch(client: MirrorClient, part: MeasuredPart, blob: Child) -> None:
    began = time.monotonic()
    with _recording(part):
        async with client.blob(blob, 0) as body:
            part.first_byte = time.monotonic() - began
            _record_source(part, body.peer)
            while piece := await body.next():
                part.moved += len(piece)
        if part.moved != part.size:
            part.error = f"it ended after {part.moved} of {part.size} bytes"


@contextmanager
def _recording(part: MeasuredPart) -> Iterator[None]:
    """Record the duration of the block, and its error."""
    began = time.monotonic()
    try:
        yield
    except (ManifestUnknown, BlobUnknown):
        part.source = ContentSource.NONE
    except SpegelError as error:
        part.error = str(error)
    finally:
        part.seconds = time.monotonic() - began


def _record_source(part: MeasuredPart, peer: str | None) -> None:
    """Record the source of an answer: a mirror names no peer for its own content."""
    part.source = ContentSource.PEER if peer else ContentSource.LOCAL
    part.peer = peer or None


class Measurer:
    """Runs one measurement at a time, which several people may watch.

    `mirror` is the URL of the registry, which may have a user and a password. Use `running()`
    around its life: it ends a measurement in the background. `latest` is the measurement that is
    under way, else the last one; None before the first.
    """

    def __init__(self, *, mirror: str) -> None:
        self._mirror = mirror
        self._is_busy = False
        self._task: asyncio.Task[None] | None = None
        self.latest: Measurement | None = None

    def __repr__(self) -> str:
        state = "at work on" if self._is_busy else "after"
        return f"<Measurer {state} {self.latest and self.latest.reference}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Measurer]:
        """Allow measurements while the block lasts."""
        try:
            yield self
        finally:
            await self.stop()

    async def follow(self, text: str) -> AsyncGenerator[Measurement, None]:
        """Measure an image, and yield the measurement repeatedly; closing ends it.

        Before the start it raises Occupied if a measurement is under way, and NameInvalid and
        DigestInvalid.
        """
        reference = self._admit(text)
        try:
            async with aclosing(measure(reference, mirror=self._mirror)) as steps:
                async for measurement in steps:
                    self.latest = measurement
                    yield measurement
        finally:
            self._end()

    def start(self, text: str) -> None:
        """Measure an image in the background; `latest` shows it. Raises as `follow` does."""
        reference = self._admit(text)
        self._task = asyncio.create_task(self._run(reference), name="measuring")
        self._task.add_done_callback(lambda _: self._end())

    async def stop(self) -> None:
        """End the measurement in the background, if there is one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _admit(self, text: str) -> Reference:
        try:
            reference = Reference.parse(text.strip())
        except NameInvalid as error:
            raise NameInvalid(
                f"{error.message}; write it as in registry.example/app:1, or with @sha256:…"
            ) from error
        if self._is_busy:
            name = self.latest.reference if self.latest else "another image"
            raise Occupied(
                f"{name} is being measured, and one is at a time: try again when that is over"
            )
        self._is_busy = True
        return reference

    async def _run(self, reference: Reference) -> None:
        try:
            async with aclosing(measure(reference, mirror=self._mirror)) as steps:
                async for measurement in steps:
                    self.latest = measurement
        except Exception as error:  # noqa: BLE001 - nobody waits for this task
            log.error("measuring failed", reference=str(reference), error=repr(error))

    def _end(self) -> None:
        self._is_busy = False
        if self.latest is not None:
            log.info("image measured", **_summary(self.latest))


def _summary(one: Measurement) -> dict[str, object]:
    moved = one.bytes
    return {
        "reference": one.reference,
        "seconds": round(one.seconds, 3),
        "local": moved["local"],
        "peer": moved["peer"],
        "missing": one.missing,
        "error": one.error,
    }
