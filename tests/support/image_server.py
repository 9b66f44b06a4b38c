"""A small registry or mirror that serves images from memory, with the faults that a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import CLIENT_HEADER
from spegel_py.oci.manifest import detect
from spegel_py.oci.range import ByteRange


@dataclass
class ImageServer:
    """The content that is served, and the requests that came.

    Args:
        content: the blobs and manifests.
        tags: the tags' targets.
        cut: the bytes after which the next body of a digest ends, once each.
        status: answers for a digest, in place of its content.
        requests: the paths and offsets of all GETs.
        clients: the values of the client's header.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    clients: set[str] = field(default_factory=set)
    url: str = ""

    def add(self, image: Image, *tags: str) -> None:
        """Serve an image, and its root by these tags too."""
        self.content |= {str(blob.digest): blob.data for blob in image.blobs}
        self.tags |= dict.fromkeys(tags, image.root.digest)

    def got(self, digest: Digest) -> list[int]:
        """Return the offsets of the GETs of a digest."""
        return [offset for reference, offset in self.requests if reference == str(digest)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.clients.add(request.headers.get(CLIENT_HEADER, ""))
        wanted = request.path.rpartition("/")[2]
        reference = str(self.tags.get(wanted, wanted))
        if (status := self.status.get(reference)) is not None:
            return web.Response(status=status)
        if (data := self.content.get(reference)) is None:
            return web.Response(status=404)
        asked = ByteRange.parse(request.headers.get("Range", ""))
        start = asked.first or 0 if asked is not None else 0
        if request.method == "GET":
            self.requests.append((reference, start))
        headers = {"Docker-Content-Digest": reference, "Content-Length": str(len(data) - start)}
        headers["Content-Type"] = detect(data) or "application/octet-stream"
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        cuts = self.cut.get(reference)
        end = cuts.pop(0) if cuts else len(data)
        if request.method == "GET":
            await response.write(data[start:end])
            if end < len(data) and request.transport is not None:
                request.transport.close()
        return response


@asynccontextmanager
async def image_server(*images: Image) -> AsyncIterator[ImageServer]:
    """Serve these images while the block lasts."""
    served = ImageServer()
    for one in images:
        served.add(one)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", served.handle)
    async with TestServer(app) as server:
        served.url = str(server.make_url("/")).rstrip("/")
        yield served
