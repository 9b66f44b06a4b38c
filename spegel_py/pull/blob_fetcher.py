"""Fetching one blob into the layout: resumed, verified, and retried while it makes progress."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from spegel_py.errors import DigestMismatch, PeerError, PeerUnreachable
from spegel_py.oci.manifest import Child
from spegel_py.pull.hosts import Hosts
from spegel_py.pull.mirror_client import Body
from spegel_py.pull.pull_events import (
    BlobFinished,
    BlobInterrupted,
    BlobOpened,
    BytesFetched,
    OnProgress,
    PullEvent,
)
from spegel_py.pull.resume import RetryState
from spegel_py.tools.threads import run

if TYPE_CHECKING:
    from spegel_py.store.layout import BlobWriter, LayoutWriter


class BlobFetcher:
    """Fetches blobs into one layout.

    It counts the bytes from the network: `mirrored` by peer, and `upstream`.
    """

    def __init__(
        self, *, hosts: Hosts, writer: LayoutWriter, on_progress: OnProgress | None
    ) -> None:
        self._hosts = hosts
        self._writer = writer
        self._on_progress = on_progress
        self.mirrored: dict[str | None, int] = {}
        self.upstream = 0

    def __repr__(self) -> str:
        return f"<BlobFetcher {self._hosts!r} {self.fetched} bytes>"

    @property
    def fetched(self) -> int:
        """Bytes from the network."""
        return self.upstream + sum(self.mirrored.values())

    def count(self, count: int, peer: str | None, *, is_upstream: bool) -> None:
        """Add bytes from the network to the counts."""
        if is_upstream:
            self.upstream += count
        else:
            self.mirrored[peer] = self.mirrored.get(peer, 0) + count

    async def fetch(self, blob: Child) -> None:
        """Fetch the blob into the layout and verify it. An existing right blob is kept.

        Raises BlobUnknown, PeerError after the last retry, StoreUnavailable.
        """
        if await run(_is_right, self._writer, blob):
            return await self.report(BlobFinished(blob, was_here=True))
        # The thread fills this list: a cancellation may come while the part is being opened.
        opened: list[BlobWriter] = []
        try:
            await run(lambda: opened.append(self._writer.begin(blob.digest, blob.size)))
            before = self.fetched
            await self._complete(blob, opened[0])
            await self.report(BlobFinished(blob, was_here=self.fetched == before))
        finally:
            for part in opened:
                await run(part.close)
        return None

    async def report(self, event: PullEvent) -> None:
        """Pass an event on, and await the result if it is awaitable."""
        result = self._on_progress(event) if self._on_progress else None
        if inspect.isawaitable(result):
            await result

    async def _complete(self, blob: Child, part: BlobWriter) -> None:
        retries = RetryState(reached=part.offset)
        while True:
            try:
                if part.offset != blob.size:
                    await self._attempt(blob, part)
                return await run(part.commit)
            except PeerError as error:
                retries = retries.after(error, part.offset)
                if retries.is_over:
                    raise
                await self.report(BlobInterrupted(blob, part.offset, str(error)))
            await asyncio.sleep(retries.pause)

    async def _attempt(self, blob: Child, part: BlobWriter) -> None:
        if part.offset > blob.size:
            await run(part.restart)
        async with self._hosts.blob(blob, part.offset) as body:
            if body.start != part.offset:
                await run(part.restart)
            await self.report(BlobOpened(blob, part.offset, body.peer, body.is_upstream))
            await self._copy(blob, part, body)

    async def _copy(self, blob: Child, part: BlobWriter, body: Body) -> None:
        while piece := await body.next():
            if part.offset + len(piece) > blob.size:
                await run(part.restart)
                raise DigestMismatch(f"more than the {blob.size} bytes of {blob.digest} came")
            await run(part.write, piece)
            self.count(len(piece), body.peer, is_upstream=body.is_upstream)
            await self.report(
                BytesFetched(blob, part.offset, len(piece), body.peer, body.is_upstream)
            )
        if part.offset < blob.size:
            raise PeerUnreachable(f"{blob.digest} ended at byte {part.offset} of {blob.size}")


def _is_right(writer: LayoutWriter, blob: Child) -> bool:
    """Return True if the layout has the blob with the right content. A wrong blob is removed."""
    if not writer.has(blob.digest, blob.size):
        return False
    if writer.verify(blob.digest):
        return True
    writer.remove(blob.digest)
    return False
