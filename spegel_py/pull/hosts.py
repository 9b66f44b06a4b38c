"""The hosts of a pull: the mirror first, then the registry, as a runtime follows hosts.toml.

Each request tries both again. So does the rest of a broken blob, which the other host may complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from spegel_py.errors import BlobUnknown, ManifestUnknown, PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import Reference
from spegel_py.pull.mirror_client import Body, Manifest, MirrorClient, PullDeadlines
from spegel_py.tools.addresses import MirrorAddress

_NOT_GIVEN = (ManifestUnknown, BlobUnknown, PeerRefused, PeerStalled, PeerUnreachable)
"""Failures after which the next host is asked. Wrong bytes are requested again from the same host.
"""


class Hosts:
    """Gets content from the mirror, else from upstream if given. Raises the last host's error."""

    def __init__(self, *, mirror: MirrorClient, upstream: MirrorClient | None) -> None:
        self._mirror = mirror
        self._upstream = upstream

    def __repr__(self) -> str:
        return f"<Hosts {self._mirror!r}, {self._upstream!r}>"

    async def resolve(self, tag: str) -> Child | Manifest:
        """Return the target of a tag, as MirrorClient does."""
        try:
            return await self._mirror.resolve(tag)
        except _NOT_GIVEN:
            if self._upstream is None:
                raise
        return await self._upstream.resolve(tag)

    async def manifest(self, child: Child) -> Manifest:
        """Return the manifest with this digest."""
        try:
            return await self._mirror.manifest(child.digest, child.media_type)
        except _NOT_GIVEN:
            if self._upstream is None:
                raise
        return await self._upstream.manifest(child.digest, child.media_type)

    @asynccontextmanager
    async def blob(self, blob: Child, offset: int) -> AsyncIterator[Body]:
        """Open a blob from `offset` on, as MirrorClient does. A broken body is not resumed here."""
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
    *,
    mirror: str | MirrorAddress,
    upstream: str | None,
    reference: Reference,
    deadlines: PullDeadlines | None,
    client: PullClient = PullClient.RUNTIME,
) -> AsyncIterator[Hosts]:
    """Yield the hosts of a pull. Raises ConfigError for an invalid address."""
    first = MirrorClient(mirror=mirror, reference=reference, deadlines=deadlines, client=client)
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
