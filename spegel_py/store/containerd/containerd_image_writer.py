"""Writing images into containerd's content store, below a lease of their own.

A blob is written with the same calls as containerd's own clients use: STAT tells how many bytes an
earlier attempt left, WRITE appends, and COMMIT checks the length and the digest. The ingests have
names of their own. With the names that the CRI uses, a pull by the kubelet would wait for the end
of ours.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from spegel_py.errors import ContentNotFound, DigestMismatch
from spegel_py.oci.manifest import MANIFESTS, Child
from spegel_py.store.base import ContentWriter, ImageWriter
from spegel_py.store.containerd.api import content_pb2 as messages
from spegel_py.store.containerd.grpc_client import CHILD, SOURCE, Client, Duplex
from spegel_py.store.containerd.grpc_errors import AlreadyExists, ContentRefused, Locked
from spegel_py.store.containerd.lease_labels import Lease

INGEST = "spegel-py-"
"""Beginning of the names of our ingests; the blob's digest follows."""

PIECE = 1024 * 1024
"""Bytes of one message. Smaller ones cost up to 60 % more CPU, larger ones are slower."""

UNDER_WAY = 4
"""Messages that are sent before the first one is answered."""

WRITE_TIMEOUT = 30.0
"""Seconds for the answer to one piece: a slow disk under load."""

HASH_TIMEOUT = 120.0
"""Seconds for an answer before which containerd reads the whole blob: at the start it hashes the
bytes that are here, and at the commit it waits for the disk."""

LOCK_POLL, LOCK_TRIES = 0.1, 50
"""Seconds between the tries to open an ingest that a broken call may still hold, and their number.
"""

_CONTENT = "/containerd.services.content.v1.Content"


class ContainerdImageWriter(ImageWriter):
    """The ImageWriter port over containerd's socket.

    Args:
        lease: keeps what is written, the ingests too.
        sources: the repositories (`registry/repository`) that the image comes from.
    """

    def __init__(self, *, client: Client, lease: Lease, sources: Collection[str]) -> None:
        self._client = client
        self._lease = lease
        self._sources = source_labels(sources)

    def __repr__(self) -> str:
        return f"<ContainerdImageWriter {self._lease.id}>"

    @asynccontextmanager
    async def open(
        self, blob: Child, *, children: Sequence[Child] = ()
    ) -> AsyncIterator[ContentWriter]:
        labels = {**self._sources, **child_labels(children)}
        for tries_left in reversed(range(LOCK_TRIES)):
            method = f"{_CONTENT}/Write"
            kinds = (messages.WriteContentRequest, messages.WriteContentResponse)
            async with self._client.duplex(method, *kinds, lease=self._lease.id) as call:
                writer = ContainerdContentWriter(self._client, call, blob, labels)
                try:
                    await writer.begin()
                except Locked:
                    if not tries_left:
                        raise
                else:
                    yield writer
                    return
            await asyncio.sleep(LOCK_POLL)


class ContainerdContentWriter(ContentWriter):
    """The ContentWriter port over one call of Content.Write."""

    def __init__(
        self, client: Client, call: Duplex, blob: Child, labels: Mapping[str, str]
    ) -> None:
        self._client = client
        self._call = call
        self._blob = blob
        self._labels = labels
        self._offset = 0
        self._unanswered = 0
        self._was_here = False

    def __repr__(self) -> str:
        return f"<ContainerdContentWriter {self._blob.digest} offset={self._offset}>"

    @property
    def is_here(self) -> bool:
        return self._was_here

    @property
    def offset(self) -> int:
        return self._offset

    async def begin(self) -> None:
        """Ask how many bytes are here. Raises Locked while another call has the ingest."""
        try:
            await self._send(messages.STAT)
            self._offset = int((await self._call.receive(within=HASH_TIMEOUT)).offset)
        except AlreadyExists:
            await self._keep_existing()

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            piece = bytes(view[at : at + PIECE])
            await self._send(messages.WRITE, offset=self._offset, data=piece)
            self._offset += len(piece)
            self._unanswered += 1
            await self._settle(most=UNDER_WAY - 1)

    async def restart(self) -> None:
        # A WRITE at offset 0 discards what is here.
        await self._settle()
        self._offset = 0

    async def commit(self) -> None:
        if self._was_here:
            return
        await self._settle()
        if self._offset != self._blob.size:
            await self._discard()
            raise DigestMismatch(f"{self._offset} bytes are not the content of {self._blob.digest}")
        try:
            # Without the offset containerd would discard all bytes.
            await self._send(messages.COMMIT, offset=self._offset, labels=self._labels)
            await self._call.receive(within=HASH_TIMEOUT)
        except AlreadyExists:  # a pull by the runtime was faster
            await self._keep_existing()
        except ContentRefused as error:
            # The bytes would stay, and fail the next try too.
            await self._discard()
            raise DigestMismatch(f"{self._blob.digest}: {error}") from error

    async def _send(
        self,
        action: messages.WriteAction,
        *,
        offset: int = 0,
        data: bytes = b"",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        request = messages.WriteContentRequest(
            action=action,
            ref=f"{INGEST}{self._blob.digest}",
            total=self._blob.size,
            expected=str(self._blob.digest),
            offset=offset,
            data=data,
            labels=_labels(labels or {}),
        )
        await self._call.send(request)

    async def _settle(self, *, most: int = 0) -> None:
        """Wait for answers until at most so many are missing."""
        while self._unanswered > most:
            await self._call.receive(within=WRITE_TIMEOUT)
            self._unanswered -= 1

    async def _discard(self) -> None:
        self._offset = 0
        request = messages.AbortRequest(ref=f"{INGEST}{self._blob.digest}")
        with suppress(ContentNotFound):
            await self._client.call(f"{_CONTENT}/Abort", request, Empty)

    async def _keep_existing(self) -> None:
        """Add our labels to a blob that is here: its own may be of an image without children."""
        self._was_here, self._offset = True, self._blob.size
        request = messages.InfoRequest(digest=str(self._blob.digest))
        answer = await self._client.call(f"{_CONTENT}/Info", request, messages.InfoResponse)
        before = {label.key: label.value for label in answer.info.labels}
        labels = merged(before, self._labels)
        if not labels:
            return
        update = messages.UpdateRequest(
            info=messages.Info(digest=str(self._blob.digest), labels=_labels(labels)),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        await self._client.call(f"{_CONTENT}/Update", update, messages.UpdateResponse)


def source_labels(sources: Collection[str]) -> dict[str, str]:
    """Return the labels with the repositories of content, as the CRI sets them.

    containerd leaves out the port of the registry.
    """
    found: dict[str, list[str]] = {}
    for source in sorted(sources):
        registry, _, repository = source.partition("/")
        host = registry if registry.endswith("]") else registry.rpartition(":")[0] or registry
        found.setdefault(f"{SOURCE}{host}", []).append(repository)
    return {label: ",".join(repositories) for label, repositories in found.items()}


def child_labels(children: Sequence[Child]) -> dict[str, str]:
    """Return the labels that keep the content below a manifest (containerd, images.ChildGCLabels).

    They count for the runtime's own image too, once it pulls it.
    """
    labels: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for child in children:
        if child.media_type in MANIFESTS:
            kind = "m."
        elif "config" in child.media_type or child.media_type.endswith("container.image.v1+json"):
            kind = "config"
        else:
            kind = "l."
        number = "" if kind == "config" and not counts[kind] else str(counts[kind])
        counts[kind] += 1
        labels[f"{CHILD}.{kind}{number}"] = str(child.digest)
    return labels


def merged(before: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels to set on a blob that has others: repositories are added to its own."""
    found = {}
    for key, value in labels.items():
        here = before.get(key, "")
        is_list = key.startswith(SOURCE) and here
        wanted = ",".join(sorted({*here.split(","), *value.split(",")})) if is_list else value
        if wanted != here:
            found[key] = wanted
    return found


def _labels(labels: Mapping[str, str]) -> list[messages.Label]:
    return [messages.Label(key=key, value=value) for key, value in labels.items()]
