"""One pull from its reference to the tag in the layout, in containerd's order: manifests down, then blobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from spegel_py.errors import DigestMismatch, ManifestInvalid, PeerError
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import INDEXES, MANIFESTS, Child
from spegel_py.oci.reference import Reference
from spegel_py.pull import plan
from spegel_py.pull.blobs import BlobFetcher, in_thread
from spegel_py.pull.client import Deadlines, Manifest, MirrorClient
from spegel_py.pull.events import OnProgress, Planned
from spegel_py.pull.plan import Platform
from spegel_py.pull.resume import Patience
from spegel_py.store.layout import LayoutWriter

Answer = TypeVar("Answer")

PARALLEL = 3
"""Blobs fetched at the same time: what containerd does for Kubernetes (max_concurrent_downloads)."""

DEPTH = 4
"""Indexes within indexes that are followed; real images have two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullReport:
    """What a pull did: all that is counted was verified by its digest."""

    digest: Digest
    """Of the image: its index, or its manifest where there is none."""
    blobs: int
    """Configs and layers, those that were there before included."""
    bytes: int
    """Size of the image in bytes: blobs and manifests."""
    fetched: int
    """Bytes that came over the network, those that came twice included."""
    peers: dict[str, int] = field(default_factory=dict)
    """Of these, how many by the id of the peer that the answer named; the empty name where it named none."""
    seconds: float
    verified: int
    """Digests verified: of blobs and manifests."""


async def pull(
    reference: Reference | str,
    *,
    mirror: str,
    writer: LayoutWriter,
    platform: Platform | None,
    parallel: int = PARALLEL,
    on_progress: OnProgress | None = None,
    deadlines: Deadlines | None = None,
    order: Callable[[Sequence[Child]], Sequence[Child]] = tuple,
) -> PullReport:
    """Pull an image through a mirror (`http://host:port`) into a layout; all platforms where `platform` is None.

    Nothing is tagged before all is there and verified. What a pull that fails or is cancelled has got stays, and the
    next one goes on with it. `order` may put the blobs into another order than the manifests'.

    Raises ConfigError for a wrong argument, ManifestUnknown or BlobUnknown where nobody has it, ManifestInvalid,
    PeerError where the mirror fails, StoreUnavailable where the disk does.
    """
    began = time.monotonic()
    name = Reference.parse(reference) if isinstance(reference, str) else reference
    async with MirrorClient(mirror=mirror, reference=name, deadlines=deadlines) as client:
        fetcher = BlobFetcher(client=client, writer=writer, on_progress=on_progress)
        manifests = await _Walk(client, fetcher, platform).run(name)
        root = manifests[0].child
        blobs = plan.blobs(one.data for one in manifests if one.child.media_type not in INDEXES)
        await fetcher.tell(Planned(root, tuple(one.child for one in manifests), blobs))
        await _fetch_all(fetcher, order(blobs), parallel)
        for one in reversed(manifests):  # children before parents: a reader never finds a manifest without its content
            await in_thread(writer.put, one.data, one.child.digest.algorithm)
        if name.name is not None:
            await in_thread(writer.tag, name.name, root)
    return PullReport(
        digest=root.digest,
        blobs=len(blobs),
        bytes=sum(blob.size for blob in blobs) + sum(one.child.size for one in manifests),
        fetched=sum(fetcher.fetched.values()),
        peers={peer or "": count for peer, count in fetcher.fetched.items()},
        seconds=time.monotonic() - began,
        verified=len(blobs) + len(manifests),
    )


class _Walk:
    """From the root to every manifest that is meant."""

    def __init__(self, client: MirrorClient, fetcher: BlobFetcher, platform: Platform | None) -> None:
        self._client = client
        self._fetcher = fetcher
        self._platform = platform
        self._found: dict[Digest, Manifest] = {}

    async def run(self, name: Reference) -> list[Manifest]:
        found = name.digest or await self._resolve(name.tag or "")
        root = found if isinstance(found, Manifest) else await self._get(Child(found, -1, ""))
        if isinstance(found, Manifest):
            self._keep(root)
        await self._descend(root, 0)
        return list(self._found.values())

    async def _descend(self, manifest: Manifest, depth: int) -> None:
        if manifest.child.media_type not in INDEXES:
            return
        if depth == DEPTH:
            raise ManifestInvalid(f"more than {DEPTH} indexes within each other")
        for child in plan.select(manifest.data, self._platform):
            if child.media_type and child.media_type not in MANIFESTS:
                continue  # an index may list other things; runtimes pass them by
            if child.digest not in self._found:
                await self._descend(await self._get(child), depth + 1)

    async def _resolve(self, tag: str) -> Digest | Manifest:
        return await self._patiently(lambda: self._client.resolve(tag))

    async def _get(self, child: Child) -> Manifest:
        got = await self._patiently(lambda: self._client.manifest(child.digest, child.media_type))
        if child.size not in (-1, got.child.size):
            raise DigestMismatch(f"{child.digest} has {got.child.size} bytes, its index says {child.size}")
        return self._keep(got)

    def _keep(self, got: Manifest) -> Manifest:
        self._found[got.child.digest] = got
        self._fetcher.fetched[got.peer] = self._fetcher.fetched.get(got.peer, 0) + got.child.size
        return got

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        patience = Patience()
        while True:
            try:
                return await ask()
            except PeerError as error:
                patience = patience.after(error, 0)
                if patience.is_over:
                    raise
            await asyncio.sleep(patience.pause)


async def _fetch_all(fetcher: BlobFetcher, blobs: Sequence[Child], parallel: int) -> None:
    """Fetch the blobs in order, so many at a time; the first that fails for good ends the others."""
    waiting = iter(blobs)

    async def work() -> None:
        for blob in waiting:
            await fetcher.fetch(blob)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(max(1, parallel)):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise first(group) from group


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group: the one that ended the others."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error
