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
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import MANIFESTS, Child
from spegel_py.store.base import ContentWriter, ImageWriter
from spegel_py.store.containerd.api import content_pb2 as messages
from spegel_py.store.containerd.grpc_client import CHILD, SOURCE, Client
from spegel_py.store.containerd.grpc_duplex import Duplex
from spegel_py.store.containerd.grpc_errors import AlreadyExists, ContentRefused, Locked
from spegel_py.store.containerd.lease_labels import Lease
from spegel_py.store.containerd.leases import Leases

INGEST, BACKGROUND = "spegel-py-", "spegel-py-background-"
"""Beginnings of the names of our ingests.

The first is followed by the blob's digest, by which nodes find an ingest that they may share. The
other is followed by the digest's hexadecimal part alone, so that no node finds it."""

PIECE = 1024 * 1024
"""Bytes of one message. Smaller ones cost up to 60 % more CPU, larger ones are slower."""

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
        is_shared: True if nodes may find the ingests.
    """

    def __init__(
        self, *, client: Client, lease: Lease, sources: Collection[str], is_shared: bool
    ) -> None:
        self._client = client
        self._is_shared = is_shared
        self._lease = lease
        self._leases = Leases(client=client)
        self._sources = source_labels(sources)
        self._unfinished: set[str] = set()

    def __repr__(self) -> str:
        return f"<ContainerdImageWriter {self._lease.id}>"

    @asynccontextmanager
    async def open(
        self, blob: Child, *, children: Sequence[Child] = ()
    ) -> AsyncIterator[ContentWriter]:
        labels = {**self._sources, **child_labels(children)}
        digest = blob.digest
        name = f"{INGEST}{digest}" if self._is_shared else f"{BACKGROUND}{digest.hex}"
        self._unfinished.add(name)
        for tries_left in reversed(range(LOCK_TRIES)):
            method = f"{_CONTENT}/Write"
            kinds = (messages.WriteContentRequest, messages.WriteContentResponse)
            async with self._client.duplex(method, *kinds, lease=self._lease.id) as call:
                writer = ContainerdContentWriter(self._client, call, blob, name, labels)
                try:
                    await writer.begin()
                except Locked:
                    if not tries_left:
                        raise
                else:
                    try:
                        yield writer
                    finally:
                        if writer.is_finished:
                            self._unfinished.discard(name)
                    if writer.is_here:  # another one wrote it, below another lease or none
                        await self._leases.add(self._lease, blob.digest)
                    return
            await asyncio.sleep(LOCK_POLL)

    async def discard_unfinished(self) -> None:
        """Delete the ingests that were not committed. Raises StoreUnavailable.

        containerd would leave an ingest whose broken call it has not ended yet.
        """
        for name in self._unfinished:
            for tries_left in reversed(range(LOCK_TRIES)):
                try:
                    await abort(self._client, name)
                    break
                except Locked:
                    if not tries_left:
                        raise
                await asyncio.sleep(LOCK_POLL)


class ContainerdContentWriter(ContentWriter):
    """The ContentWriter port over one call of Content.Write."""

    def __init__(
        self, client: Client, call: Duplex, blob: Child, name: str, labels: Mapping[str, str]
    ) -> None:
        self._client = client
        self._call = call
        self._blob = blob
        self._name = name
        self._labels = labels
        self._offset = 0
        self._was_here = False
        self.is_finished = False
        """Whether the content is in the store."""

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
        try:
            for at in range(0, len(view), PIECE):
                if self._was_here:
                    return
                piece = bytes(view[at : at + PIECE])
                # One message after the other: if containerd ends the call, its reason comes with
                # the answer, and would be lost in a second message.
                await self._send(messages.WRITE, offset=self._offset, data=piece)
                await self._call.receive(within=WRITE_TIMEOUT)
                self._offset += len(piece)
        except AlreadyExists:  # a pull by the runtime was faster
            await self._keep_existing()

    async def restart(self) -> None:
        self._offset = 0  # a WRITE there discards what is here

    async def commit(self) -> None:
        if self._was_here:
            return
        try:
            if (length := self._offset) != self._blob.size:
                await self._discard()
                raise DigestMismatch(f"{length} bytes are not the content of {self._blob.digest}")
            # Without the offset containerd would discard all bytes.
            await self._send(messages.COMMIT, offset=self._offset, labels=self._labels)
            await self._call.receive(within=HASH_TIMEOUT)
            self.is_finished = True
        except AlreadyExists:
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
            ref=self._name,
            total=self._blob.size,
            expected=str(self._blob.digest),
            offset=offset,
            data=data,
            labels=_labels(labels or {}),
        )
        await self._call.send(request, is_last=action == messages.COMMIT)

    async def _discard(self) -> None:
        self._offset = 0
        await abort(self._client, self._name)

    async def _keep_existing(self) -> None:
        """Add our labels to a blob that is here: its own may be of an image without children."""
        self._was_here, self._offset = True, self._blob.size
        self.is_finished = True
        request = messages.InfoRequest(digest=str(self._blob.digest))
        answer = await self._client.call(f"{_CONTENT}/Info", request, messages.InfoResponse)
        before = {label.key: label.value for label in answer.info.labels}
        labels = merged(before, self._labels)
        if labels:
            await set_labels(self._client, self._blob.digest, labels)


async def set_labels(client: Client, digest: Digest, labels: Mapping[str, str]) -> None:
    """Set these labels of a blob, and leave its others. Raises ContentNotFound."""
    update = messages.UpdateRequest(
        info=messages.Info(digest=str(digest), labels=_labels(labels)),
        update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
    )
    await client.call(f"{_CONTENT}/Update", update, messages.UpdateResponse)


async def abort(client: Client, name: str) -> None:
    """Delete an ingest, if there is one. Raises Locked while a call writes it."""
    with suppress(ContentNotFound):
        await client.call(f"{_CONTENT}/Abort", messages.AbortRequest(ref=name), Empty)


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
