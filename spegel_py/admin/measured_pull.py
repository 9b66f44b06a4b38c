"""Measuring a pull: an image is pulled through the node's own mirror, and its bytes are dropped.

A measurement shows the duration, and the source of each manifest and blob: this node, a peer, or
nobody, so that a runtime would have gone to the registry. Manifests are verified. Blobs are
verified only by their length, since hashing them would measure this processor. A measurement goes
on after a part that is missing or fails, so that it shows all parts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Literal

from spegel_py.admin.measurement import MeasuredPart, Measurement
from spegel_py.errors import BlobUnknown, ConfigError, ManifestUnknown, SpegelError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.manifest import INDEXES, MANIFESTS, Child
from spegel_py.oci.reference import Reference
from spegel_py.outcomes import ContentSource
from spegel_py.pull import Platform, plan
from spegel_py.pull.mirror_client import Manifest, MirrorClient, PullDeadlines
from spegel_py.pull.session import DEPTH, PARALLEL
from spegel_py.tools.addresses import MirrorAddress

INTERVAL = 0.25
"""Seconds between two reports of a measurement."""


async def measure(
    reference: Reference,
    *,
    mirror: str | MirrorAddress,
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
