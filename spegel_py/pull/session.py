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
from spegel_py.pull.blobs import BlobFetcher
from spegel_py.pull.client import Manifest, PullDeadlines
from spegel_py.pull.events import OnProgress, PullPlanned
from spegel_py.pull.hosts import Hosts, connected
from spegel_py.pull.plan import Platform
from spegel_py.pull.resume import RetryState
from spegel_py.store.layout import LayoutWriter
from spegel_py.tools.threads import run

T = TypeVar("T")

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
    """Of these, how many by the id of the peer that the mirror named; the empty name where it named none."""
    upstream: int = 0
    """Of these, how many from upstream, past the mirror."""
    seconds: float
    verified: int
    """Digests verified: of blobs and manifests."""


async def pull(
    reference: Reference | str,
    *,
    mirror: str,
    writer: LayoutWriter,
    platform: Platform | None,
    upstream: str | None = None,
    parallel: int = PARALLEL,
    on_progress: OnProgress | None = None,
    deadlines: PullDeadlines | None = None,
    order: Callable[[Sequence[Child]], Sequence[Child]] = tuple,
) -> PullReport:
    """Pull an image through a mirror (`http://host:port`) into a layout; all platforms where `platform` is None.

    What the mirror does not give is asked of `upstream`, a registry, if that is given. Nothing is tagged before all is
    there and verified. What a pull that fails or is cancelled has got stays, and the next one goes on with it. `order`
    may put the blobs into another order than the manifests'.

    Raises ConfigError for a wrong argument, ManifestUnknown or BlobUnknown where nobody has it, ManifestInvalid,
    PeerError where mirror and upstream fail, StoreUnavailable where the disk does.
    """
    began = time.monotonic()
    name = Reference.parse(reference) if isinstance(reference, str) else reference
    async with connected(
        mirror=mirror, upstream=upstream, reference=name, deadlines=deadlines
    ) as hosts:
        fetcher = BlobFetcher(hosts=hosts, writer=writer, on_progress=on_progress)
        manifests = await _Walk(hosts, writer, fetcher, platform).run(name)
        root = manifests[0].child
        blobs = plan.blobs(one.data for one in manifests if one.child.media_type not in INDEXES)
        await fetcher.report(PullPlanned(root, tuple(one.child for one in manifests), blobs))
        await _fetch_all(fetcher, order(blobs), parallel)
        if name.name is not None:
            await run(writer.tag, name.name, root)
    return PullReport(
        digest=root.digest,
        blobs=len(blobs),
        bytes=sum(blob.size for blob in blobs) + sum(one.child.size for one in manifests),
        fetched=fetcher.fetched,
        peers={peer or "": count for peer, count in fetcher.mirrored.items()},
        upstream=fetcher.upstream,
        seconds=time.monotonic() - began,
        verified=len(blobs) + len(manifests),
    )


class _Walk:
    """From the root to every manifest that is meant; each is written at once, as containerd does.

    So a node that shares what it is getting can give it to others. No tag leads to it before all that it names is
    there.
    """

    def __init__(
        self, hosts: Hosts, writer: LayoutWriter, fetcher: BlobFetcher, platform: Platform | None
    ) -> None:
        self._hosts = hosts
        self._writer = writer
        self._fetcher = fetcher
        self._platform = platform
        self._found: dict[Digest, Manifest] = {}

    async def run(self, name: Reference) -> list[Manifest]:
        root = (
            await self._get(Child(name.digest, -1, ""))
            if name.digest
            else await self._follow(name.tag or "")
        )
        await self._descend(root, 0)
        return list(self._found.values())

    async def _follow(self, tag: str) -> Manifest:
        found = await self._retry(lambda: self._hosts.resolve(tag))
        if isinstance(found, Child):
            return await self._get(
                Child(found.digest, -1, ""), total=found.size
            )  # a HEAD's length is only a hint
        await run(self._writer.put, found.data, found.child.digest.algorithm)
        return self._keep(found)

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

    async def _get(self, child: Child, total: int = -1) -> Manifest:
        """Get a manifest; its file is begun before it is asked for: who is sent to this node by then, waits for it."""
        size = max(total, child.size)
        part = await run(self._writer.begin, child.digest, size if size > 0 else None)
        try:
            got = await self._retry(lambda: self._hosts.manifest(child))
            if child.size not in (-1, got.child.size):
                raise DigestMismatch(
                    f"{child.digest} has {got.child.size} bytes, its index says {child.size}"
                )
            await run(part.put, got.data)
        finally:
            await run(part.close)
        return self._keep(got)

    def _keep(self, got: Manifest) -> Manifest:
        self._found[got.child.digest] = got
        self._fetcher.count(got.child.size, got.peer, is_upstream=got.is_upstream)
        return got

    async def _retry(self, ask: Callable[[], Awaitable[T]]) -> T:
        retries = RetryState()
        while True:
            try:
                return await ask()
            except PeerError as error:
                retries = retries.after(error, 0)
                if retries.is_over:
                    raise
            await asyncio.sleep(retries.pause)


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
        raise first_error(group) from group


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group: the one that ended the others."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
