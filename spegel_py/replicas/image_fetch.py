"""Fetches the content of one image into the store: resumed, paced, and retried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from spegel_py.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestUnknown,
    PeerError,
    PeerUnreachable,
    StoreFull,
    StoreUnavailable,
)
from spegel_py.oci.manifest import Child
from spegel_py.pull.hosts import Hosts
from spegel_py.pull.mirror_client import Body, Manifest
from spegel_py.pull.resume import RetryState
from spegel_py.pull.session import first_error
from spegel_py.replicas.take_order import TakeProgress
from spegel_py.store.base import ContentWriter, ImageWriter
from spegel_py.tools.backoff import Backoff

T = TypeVar("T")

PIECE = 1024 * 1024
"""Bytes that are written and paid for at once."""

STORE_PATIENCE = 60.0
"""Seconds for which a store that went away is waited for: a restart of containerd."""

Pay = Callable[[int], Awaitable[None]]
"""Returns once so many bytes are paid for."""


class ImageFetch:
    """Fetches the blobs and writes the manifests of one image.

    Args:
        writer: writes the image.
        progress: gets the bytes.
        pay: is awaited after each piece.
    """

    def __init__(
        self, hosts: Hosts, writer: ImageWriter, progress: TakeProgress, *, pay: Pay
    ) -> None:
        self._hosts = hosts
        self._writer = writer
        self._progress = progress
        self._pay = pay

    def __repr__(self) -> str:
        return f"<ImageFetch {self._progress.done} of {self._progress.total} bytes>"

    async def all(self, blobs: Sequence[Child]) -> None:
        """Fetch blobs in order, some at a time, until one fails for good. Raises SpegelError."""
        waiting = iter(blobs)

        async def work() -> None:
            for blob in waiting:
                await self._fetch(blob)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(max(1, self._progress.order.parallel)):
                    tasks.create_task(work())
        except BaseExceptionGroup as group:
            raise first_error(group) from group

    async def put(self, manifest: Manifest, children: Sequence[Child]) -> None:
        """Write a manifest above these children. Raises DigestMismatch, StoreUnavailable."""

        async def write() -> None:
            async with self._writer.open(manifest.child, children=children) as content:
                if not content.is_here:
                    await content.restart()
                    await content.write(manifest.data)
                await content.commit()

        await _with_store(write)
        self._progress.offsets[manifest.child.digest] = manifest.child.size

    async def _fetch(self, blob: Child) -> None:
        retries = RetryState()
        while True:
            try:
                return await _with_store(lambda: self._attempt(blob))
            except (PeerError, BlobUnknown) as error:
                retries = retries.after(error, self._progress.offsets.get(blob.digest, 0))
                if retries.is_over:
                    raise
            await asyncio.sleep(retries.pause)

    async def _attempt(self, blob: Child) -> None:
        """Write the rest of a blob, and commit it."""
        async with self._writer.open(blob) as content:
            try:
                if content.offset > blob.size:
                    await content.restart()
                if content.offset < blob.size:
                    await self._receive(blob, content)
                await content.commit()
            finally:
                self._progress.offsets[blob.digest] = content.offset

    async def _receive(self, blob: Child, content: ContentWriter) -> None:
        async with self._hosts.blob(blob, content.offset) as body:
            if body.start != content.offset:
                await content.restart()
            pieces = bytearray()
            try:
                while piece := await body.next():
                    if content.offset + len(pieces) + len(piece) > blob.size:
                        pieces.clear()
                        await content.restart()
                        raise DigestMismatch(f"more than the {blob.size} bytes of {blob.digest}")
                    pieces += piece
                    if len(pieces) >= PIECE:
                        await self._write(blob, content, pieces, body)
            except PeerError:
                await self._write(blob, content, pieces, body)
                raise
            await self._write(blob, content, pieces, body)
        if content.offset < blob.size:
            raise PeerUnreachable(f"{blob.digest} ended at byte {content.offset} of {blob.size}")

    async def _write(
        self, blob: Child, content: ContentWriter, pieces: bytearray, body: Body
    ) -> None:
        """Write the pieces, and wait until they are paid for."""
        if not pieces:
            return
        count = len(pieces)
        await content.write(bytes(pieces))
        pieces.clear()
        self._progress.offsets[blob.digest] = content.offset
        self._progress.count(count, is_upstream=body.is_upstream)
        await self._pay(count)


async def retried(ask: Callable[[], Awaitable[T]]) -> T:
    """Return a manifest or the target of a tag, after some tries. Raises the last error."""
    retries = RetryState()
    while True:
        try:
            return await ask()
        except (PeerError, ManifestUnknown) as error:
            retries = retries.after(error, 0)
            if retries.is_over:
                raise
        await asyncio.sleep(retries.pause)


async def _with_store(action: Callable[[], Awaitable[None]]) -> None:
    """Repeat an action while the store is away, for STORE_PATIENCE."""
    backoff, since = Backoff(first=0.2, most=2.0), time.monotonic()
    while True:
        began = time.monotonic()
        try:
            return await action()
        except StoreFull:
            raise
        except StoreUnavailable:
            now = time.monotonic()
            if now - began > STORE_PATIENCE:  # it was here for long
                since = now
            if now - since > STORE_PATIENCE:
                raise
        await asyncio.sleep(backoff.next())
