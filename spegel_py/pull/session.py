"""One pull, in containerd's order: manifests from the root down, then blobs, then the tag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from spegel_py.errors import DigestMismatch, ManifestInvalid, PeerError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.manifest import INDEXES, MANIFESTS, Child
from spegel_py.oci.reference import Reference
from spegel_py.pull.blob_fetcher import BlobFetcher
from spegel_py.pull.hosts import Hosts, connected
from spegel_py.pull.mirror_client import Manifest, PullDeadlines
from spegel_py.pull.plan import Platform, select
from spegel_py.pull.plan import blobs as blobs_of
from spegel_py.pull.pull_events import OnProgress, PullPlanned
from spegel_py.pull.resume import RetryState
from spegel_py.tools.addresses import MirrorAddress
from spegel_py.tools.threads import run

if TYPE_CHECKING:  # a node that only asks mirrors loads no layout
    from spegel_py.store.layout import LayoutWriter

T = TypeVar("T")

PARALLEL = 3
"""Blobs fetched at the same time: containerd's value for Kubernetes (max_concurrent_downloads)."""

DEPTH = 4
"""Levels of nested indexes that are followed. Real images have two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullReport:
    """The result of a pull. All its content was verified by digest."""

    digest: Digest
    """Digest of the image: of its index, or of its manifest if it has no index."""
    blobs: int
    """Number of configs and layers, including blobs that were here before."""
    bytes: int
    """Size of the image in bytes: blobs and manifests."""
    fetched: int
    """Bytes from the network, including bytes that came twice."""
    peers: dict[str, int] = field(default_factory=dict)
    """Bytes of `fetched` by the id of the sending peer; the empty id if the mirror named none."""
    upstream: int = 0
    """Bytes of `fetched` from upstream, past the mirror."""
    seconds: float
    verified: int
    """Number of verified digests: of blobs and manifests."""


async def pull(
    reference: Reference | str,
    *,
    mirror: str | MirrorAddress,
    writer: LayoutWriter,
    platform: Platform | None,
    upstream: str | None = None,
    parallel: int = PARALLEL,
    on_progress: OnProgress | None = None,
    deadlines: PullDeadlines | None = None,
    order: Callable[[Sequence[Child]], Sequence[Child]] = tuple,
    client: PullClient = PullClient.RUNTIME,
) -> PullReport:
    """Pull an image through a mirror into a layout. The tag is written last, after all content.

    A pull that fails or is cancelled keeps its bytes, and the next one resumes from them.

    Args:
        reference: The image.
        mirror: The mirror's address, as text `http://host:port`.
        writer: Writes the layout.
        platform: The platform to pull; None for all.
        upstream: A registry for content that the mirror does not give.
        parallel: Blobs fetched at the same time.
        on_progress: Called with each event.
        deadlines: Seconds that each wait may last.
        order: Returns the blobs in the order of their fetching.
        client: The kind of client that the mirror counts the requests for.

    Raises:
        ConfigError: An argument is wrong.
        ManifestUnknown, BlobUnknown: No host has the content.
        ManifestInvalid: A manifest is malformed.
        PeerError: The mirror and upstream failed.
        StoreUnavailable: The disk failed.
    """
    began = time.monotonic()
    name = Reference.parse(reference) if isinstance(reference, str) else reference
    async with connected(
        mirror=mirror, upstream=upstream, reference=name, deadlines=deadlines, client=client
    ) as hosts:
        fetcher = BlobFetcher(hosts=hosts, writer=writer, on_progress=on_progress)
        manifests = await _Walk(hosts, writer, fetcher, platform).run(name)
        root = manifests[0].child
        blobs = blobs_of(one.data for one in manifests if one.child.media_type not in INDEXES)
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
    """Fetches all chosen manifests from the root down. Each is written at once, as containerd does.

    A node that shares its pulls can then give them to peers. No tag leads to a manifest before its
    content is complete.
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
            # the length from a HEAD is only a hint
            return await self._get(Child(found.digest, -1, ""), total=found.size)
        await run(self._writer.put, found.data, found.child.digest.algorithm)
        return self._keep(found)

    async def _descend(self, manifest: Manifest, depth: int) -> None:
        if manifest.child.media_type not in INDEXES:
            return
        if depth == DEPTH:
            raise ManifestInvalid(f"more than {DEPTH} indexes within each other")
        for child in select(manifest.data, self._platform):
            if child.media_type and child.media_type not in MANIFESTS:
                continue  # an index may list other content, which runtimes ignore
            if child.digest not in self._found:
                await self._descend(await self._get(child), depth + 1)

    async def _get(self, child: Child, total: int = -1) -> Manifest:
        """Fetch a manifest.

        Its file is created before the request, so peers sent here can wait for it.
        """
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
    """Fetch the blobs in order, `parallel` at a time, until one fails for good."""
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
    """Return the first error of a group, which ended the other tasks."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
