"""containerd's other namespaces: their content is not shared, and people often pull into one.

`ctr` pulls into the namespace `default`, and Docker into `moby`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from spegel_py.errors import StoreError
from spegel_py.store.containerd.api import content_pb2, images_pb2, namespaces_pb2
from spegel_py.store.containerd.grpc_client import Client

MAX_NAMESPACES = 16
"""Namespaces that are looked at, at most: a machine has one for each kind of client."""

FRESH = 10.0
"""Seconds for which the numbers of images are reused: the status page asks once a second."""

_NAMESPACES = "/containerd.services.namespaces.v1.Namespaces"
_IMAGES = "/containerd.services.images.v1.Images"
_CONTENT = "/containerd.services.content.v1.Content"


class OtherNamespaces:
    """The namespaces that are not shared. All methods return nothing while the daemon is away.

    Args:
        shared: the namespaces that are.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        client: Client,
        shared: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._shared = frozenset(shared)
        self._clock = clock
        self._counts: Mapping[str, int] = {}
        self._counted = -FRESH

    def __repr__(self) -> str:
        return f"<OtherNamespaces than {sorted(self._shared)}>"

    async def counts(self) -> Mapping[str, int]:
        """Return the number of images of each namespace that has images."""
        if self._clock() - self._counted >= FRESH:
            names = await self._names()
            found = await asyncio.gather(*map(self._count, names))
            counted = zip(names, found, strict=True)
            self._counts = {name: count for name, count in counted if count}
            self._counted = self._clock()
        return self._counts

    async def holding(self, key: str) -> tuple[str, ...]:
        """Return the namespaces that hold a digest, or a tag `registry/repository:tag`."""
        names = await self._names()
        found = await asyncio.gather(*(self._holds(name, key) for name in names))
        return tuple(name for name, is_held in zip(names, found, strict=True) if is_held)

    async def _names(self) -> list[str]:
        try:
            answer = await self._client.call(
                f"{_NAMESPACES}/List",
                namespaces_pb2.ListNamespacesRequest(),
                namespaces_pb2.ListNamespacesResponse,
            )
        except StoreError:
            return []
        names = sorted({one.name for one in answer.namespaces} - self._shared)
        return names[:MAX_NAMESPACES]

    async def _count(self, namespace: str) -> int:
        with suppress(StoreError):
            answer = await self._client.call(
                f"{_IMAGES}/List",
                images_pb2.ListImagesRequest(),
                images_pb2.ListImagesResponse,
                namespace=namespace,
            )
            return len(answer.images)
        return 0

    async def _holds(self, namespace: str, key: str) -> bool:
        try:
            if "/" in key:
                await self._client.call(
                    f"{_IMAGES}/Get",
                    images_pb2.GetImageRequest(name=key),
                    images_pb2.GetImageResponse,
                    namespace=namespace,
                )
            else:
                await self._client.call(
                    f"{_CONTENT}/Info",
                    content_pb2.InfoRequest(digest=key),
                    content_pb2.InfoResponse,
                    namespace=namespace,
                )
        except StoreError:
            return False
        return True
