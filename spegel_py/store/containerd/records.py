"""What the records of one of containerd's namespaces say of its blobs, remembered.

containerd keeps the blobs of all its namespaces in one folder. Whose a file there is, and where its
content came from, is written in each namespace's records alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.client import BlobRecord, Client

CALLS = 16
"""Calls of one batch that are under way at the same time; more only queue up in the daemon."""


class BlobRecords:
    """Knows which blobs the client's namespace holds, and the repositories that containerd pulled each from.

    A blob that is not known yet is asked for, once. Before the daemon has answered anything, a blob
    counts as held: a node serves what is on its disk while containerd starts.
    """

    def __init__(self, *, client: Client) -> None:
        self._client = client
        self._sources: dict[Digest, frozenset[str]] = {}
        self._has_heard = False

    def __repr__(self) -> str:
        return f"<Records of {self._client.namespace}, blobs={len(self._sources)}>"

    def __contains__(self, digest: object) -> bool:
        return digest in self._sources

    def sources(self, digest: Digest) -> frozenset[str]:
        """Return the repositories that a blob came from, as far as known: `registry/repository`."""
        return self._sources.get(digest, frozenset())

    async def check(self, digest: Digest) -> None:
        """Raise ContentNotFound where the namespace does not hold the blob, or StoreUnavailable."""
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
        """Ask for all records, which replaces what was known, and return the digests."""
        found = await self._client.content()
        same: dict[frozenset[str], frozenset[str]] = {}  # thousands of blobs have the same sources
        self._sources = {
            digest: same.setdefault(record.sources, record.sources)
            for digest, record in found.items()
        }
        self._has_heard = True
        return frozenset(self._sources)

    async def query(self, digests: Collection[Digest]) -> frozenset[Digest]:
        """Ask for the records of these, known or not, and return the digests that the namespace holds."""
        slots = asyncio.Semaphore(CALLS)

        async def ask(digest: Digest) -> BlobRecord | None:
            async with slots:
                try:
                    return await self._client.info(digest)
                except ContentNotFound:
                    return None

        asked = list(digests)
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        for digest, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BlobRecord):
                self._sources[digest] = answer.sources
            else:
                self.drop(digest)
        self._has_heard = self._has_heard or bool(asked)
        return frozenset(digest for digest in asked if digest in self._sources)

    def drop(self, digest: Digest) -> None:
        """Forget a blob that may be gone."""
        self._sources.pop(digest, None)


PAUSE = 0.1
"""Seconds between two looks at the manifests of what is being pulled, at least."""

REST = 5.0
"""Such a look lists all records. The pause after it lasts this many times as long as it took."""


class ContainerdOrigins:
    """The Origins port over a namespace's records.

    A pull leaves its repository in a label on each blob that it fetches. A layer that was unpacked before
    is not fetched again, and an imported image has no label at all. So content also came from where the
    images came from that hold it: `of_images`, as the watcher tells. containerd labels a blob last, so
    content that it is pulling right now came from where the manifest came from that names it.
    """

    def __init__(self, *, client: Client, records: BlobRecords) -> None:
        self._client = client
        self._records = records
        self._lock = asyncio.Lock()
        self._pulling: Mapping[Digest, frozenset[str]] = {}
        self._looked = self._due = 0.0
        self.of_images: Mapping[Digest, frozenset[str]] = {}

    def __repr__(self) -> str:
        return f"<ContainerdOrigins {self._records!r}>"

    def known(self, digest: Digest) -> frozenset[str]:
        """Return the repositories that are known without a question to containerd."""
        of_images = self.of_images.get(digest, frozenset())
        return with_ports(self._records.sources(digest), of_images) | of_images

    def of_root(self, digest: Digest, names: Collection[str]) -> frozenset[str]:
        """Return where an image came from, by the label of its root, else by its `names`."""
        return with_ports(self._records.sources(digest), names) or frozenset(names)

    async def sources(self, digest: Digest) -> frozenset[str]:
        if found := self.known(digest):
            return found
        await self._records.query([digest])
        return self.known(digest) or await self._of_manifests(digest)

    async def _of_manifests(self, digest: Digest) -> frozenset[str]:
        """Return the sources of the manifests that name this content."""
        asked = time.monotonic()
        async with self._lock:
            if digest not in self._pulling and self._looked < asked:
                await asyncio.sleep(max(0.0, self._due - time.monotonic()))
                self._looked = time.monotonic()
                self._pulling = await self._client.named_by_manifests()
                now = time.monotonic()
                self._due = now + max(PAUSE, REST * (now - self._looked))
        return self._pulling.get(digest, frozenset())


def with_ports(labelled: Collection[str], known: Collection[str]) -> frozenset[str]:
    """Return the sources that labels tell, as the known ones of the same host and repository are written.

    A label has the registry's host and not its port.
    """
    written: dict[str, set[str]] = {}
    for name in known:
        written.setdefault(without_port(name), set()).add(name)
    return frozenset().union(*(written.get(source, {source}) for source in labelled))


def without_port(repository: str) -> str:
    """Return `registry/repository` with the registry as containerd's labels have it: its host alone."""
    registry, _, path = repository.partition("/")
    host, _, port = registry.rpartition(":")
    if not host or not port.isdecimal():
        host = registry
    return f"{host.removeprefix('[').removesuffix(']')}/{path}"
