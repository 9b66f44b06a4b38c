"""One containerd namespace's records of its blobs, and the origins of the blobs.

containerd keeps the blobs of all namespaces in one folder. Only the records say which namespace
holds a blob, and where it was pulled from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.grpc_client import BlobRecord, Client

CALLS = 16
"""Calls of one batch at the same time. More would only queue up in the daemon."""


class BlobRecords:
    """The blobs that the client's namespace holds, with the repositories of their pulls.

    An unknown blob is looked up once. Before the daemon's first answer every blob counts as held,
    so that a node serves the content of its disk while containerd starts.
    """

    def __init__(self, *, client: Client) -> None:
        self._client = client
        self._sources: dict[Digest, frozenset[str]] = {}
        self._has_heard = False

    def __repr__(self) -> str:
        return f"<BlobRecords of {self._client.namespace}, blobs={len(self._sources)}>"

    def __contains__(self, digest: object) -> bool:
        return digest in self._sources

    def sources(self, digest: Digest) -> frozenset[str]:
        """Return the known repositories (`registry/repository`) of a blob."""
        return self._sources.get(digest, frozenset())

    async def check(self, digest: Digest) -> None:
        """Raise ContentNotFound for a blob of other namespaces only. Raises StoreUnavailable."""
        if digest in self._sources:
            return
        try:
            is_held = await self.query([digest])
        except StoreUnavailable:
            if self._has_heard:
                raise
        else:
            if not is_held:
                raise ContentNotFound(
                    f"no content {digest} in the namespace {self._client.namespace}"
                )

    async def list(self) -> frozenset[Digest]:
        """Read all records in place of the remembered ones, and return their digests."""
        found = await self._client.content()
        # thousands of blobs share one set of sources
        same: dict[frozenset[str], frozenset[str]] = {}
        self._sources = {
            digest: same.setdefault(record.sources, record.sources)
            for digest, record in found.items()
        }
        self._has_heard = True
        return frozenset(self._sources)

    async def query(self, digests: Collection[Digest]) -> frozenset[Digest]:
        """Read the blobs' records again, and return the digests that the namespace holds."""
        slots = asyncio.Semaphore(CALLS)

        async def fetch(digest: Digest) -> BlobRecord | None:
            async with slots:
                try:
                    return await self._client.info(digest)
                except ContentNotFound:
                    return None

        requested = list(digests)
        answers = await asyncio.gather(*map(fetch, requested), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        for digest, answer in zip(requested, answers, strict=True):
            if isinstance(answer, BlobRecord):
                self._sources[digest] = answer.sources
            else:
                self.drop(digest)
        self._has_heard = self._has_heard or bool(requested)
        return frozenset(digest for digest in requested if digest in self._sources)

    def drop(self, digest: Digest) -> None:
        """Forget a blob that may be gone."""
        self._sources.pop(digest, None)


PAUSE = 0.1
"""Seconds between two readings of the manifests' labels, at least."""

REST = 5.0
"""Pause after such a reading of all records, as a multiple of the reading's time."""


class ContainerdOrigins:
    """The Origins port over a namespace's records.

    A pull labels each blob that it fetches with its repository. Two kinds of blobs have no such
    label: a layer that was unpacked before is not fetched again, and an imported image is not
    labelled. So the origins of the images that hold the blob count too (`of_images`, set by the
    watcher). containerd labels a blob last. So during its pull the origins of the manifest that
    names it count.
    """

    def __init__(self, *, client: Client, records: BlobRecords) -> None:
        self._client = client
        self._records = records
        self._lock = asyncio.Lock()
        self._pulling: Mapping[Digest, frozenset[str]] = {}
        self._read_at = self._due = 0.0
        self.of_images: Mapping[Digest, frozenset[str]] = {}

    def __repr__(self) -> str:
        return f"<ContainerdOrigins {self._records!r}>"

    def known(self, digest: Digest) -> frozenset[str]:
        """Return the repositories that are known without asking containerd."""
        of_images = self.of_images.get(digest, frozenset())
        return with_ports(self._records.sources(digest), of_images) | of_images

    def of_root(self, digest: Digest, names: Collection[str]) -> frozenset[str]:
        """Return an image's repositories: from the label of its root, else from its `names`."""
        return with_ports(self._records.sources(digest), names) or frozenset(names)

    async def sources(self, digest: Digest) -> frozenset[str]:
        if found := self.known(digest):
            return found
        await self._records.query([digest])
        return self.known(digest) or await self._of_manifests(digest)

    async def _of_manifests(self, digest: Digest) -> frozenset[str]:
        """Return the sources of the manifests that name this content."""
        requested = time.monotonic()
        async with self._lock:
            if digest not in self._pulling and self._read_at < requested:
                await asyncio.sleep(max(0.0, self._due - time.monotonic()))
                self._read_at = time.monotonic()
                self._pulling = await self._client.named_by_manifests()
                now = time.monotonic()
                self._due = now + max(PAUSE, REST * (now - self._read_at))
        return self._pulling.get(digest, frozenset())


def with_ports(labelled: Collection[str], known: Collection[str]) -> frozenset[str]:
    """Return the labelled sources, with the registry's port where a known source has one.

    containerd's labels contain the registry's host without its port.
    """
    written: dict[str, set[str]] = {}
    for name in known:
        written.setdefault(without_port(name), set()).add(name)
    return frozenset().union(*(written.get(source, {source}) for source in labelled))


def without_port(repository: str) -> str:
    """Return `registry/repository` without the registry's port, as in containerd's labels."""
    registry, _, path = repository.partition("/")
    host, _, port = registry.rpartition(":")
    if not host or not port.isdecimal():
        host = registry
    return f"{host.removeprefix('[').removesuffix(']')}/{path}"
