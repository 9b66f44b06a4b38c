"""The mirror first, and the registry behind it for what the mirror does not give: as a runtime goes through hosts.toml.

Each request goes that way anew, the rest of a blob that broke off too: what one host began the other one may end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from spegel_py.errors import BlobUnknown, ManifestUnknown, PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import Reference
from spegel_py.pull.client import Body, Manifest, MirrorClient, PullDeadlines

_NOT_GIVEN = (ManifestUnknown, BlobUnknown, PeerRefused, PeerStalled, PeerUnreachable)
"""What has the next host asked; wrong bytes are asked for again where they came from."""


class Hosts:
    """Gives content from the mirror, else from upstream if there is one; raises what the last one asked did."""

    def __init__(self, *, mirror: MirrorClient, upstream: MirrorClient | None) -> None:
        self._mirror = mirror
        self._upstream = upstream

    def __repr__(self) -> str:
        return f"<Hosts {self._mirror!r}, {self._upstream!r}>"

    async def resolve(self, tag: str) -> Child | Manifest:
        """Return what a tag points at, as MirrorClient does."""
        try:
            return await self._mirror.resolve(tag)
        except _NOT_GIVEN:
            if self._upstream is None:
                raise
        return await self._upstream.resolve(tag)

    async def manifest(self, child: Child) -> Manifest:
        """Return a manifest by its digest."""
        try:
            return await self._mirror.manifest(child.digest, child.media_type)
        except _NOT_GIVEN:
            if self._upstream is None:
                raise
        return await self._upstream.manifest(child.digest, child.media_type)

    @asynccontextmanager
    async def blob(self, blob: Child, offset: int) -> AsyncIterator[Body]:
        """Open a blob from `offset` on, as MirrorClient does; a body that breaks off is not gone on with here."""
        async with AsyncExitStack() as stack:
            try:
                body = await stack.enter_async_context(self._mirror.blob(blob, offset))
            except _NOT_GIVEN:
                if self._upstream is None:
                    raise
                body = await stack.enter_async_context(self._upstream.blob(blob, offset))
            yield body


@asynccontextmanager
async def connected(
    *, mirror: str, upstream: str | None, reference: Reference, deadlines: PullDeadlines | None
) -> AsyncIterator[Hosts]:
    """Give the hosts of a pull while the block lasts. Raises ConfigError for what is no address."""
    first = MirrorClient(mirror=mirror, reference=reference, deadlines=deadlines)
    second = None
    if upstream is not None:
        second = MirrorClient(
            mirror=upstream, reference=reference, deadlines=deadlines, is_upstream=True
        )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first)
        if second is not None:
            await stack.enter_async_context(second)
        yield Hosts(mirror=first, upstream=second)
