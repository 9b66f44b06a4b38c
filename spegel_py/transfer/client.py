"""The Upstream port over aiohttp's client: kept connections, every wait bounded, every error translated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from spegel_py.errors import PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.oci.distribution import MIRRORED_HEADER
from spegel_py.routing.base import Peer
from spegel_py.transfer.answer import check
from spegel_py.transfer.base import Deadlines, PeerAnswer, PeerRequest, Sink
from spegel_py.transfer.pace import Pace

MAX_CONNECTIONS = 1024
"""Connections to all peers together; beyond it a request waits for a free one within its connect deadline."""

KEEPALIVE = 15.0
"""Seconds an idle connection is kept; the layers of one pull follow each other within that, and a peer's
registry keeps its side for longer, so that ours is the side which closes."""


class HTTPUpstream:
    """Asks peers over HTTP/1.1. An async context manager; use it inside the event loop that it will serve.

    `authorization` is the whole value of the header that peers' registries ask for, None where they do not.
    """

    def __init__(self, *, deadlines: Deadlines, authorization: str | None = None) -> None:
        self._deadlines = deadlines
        self._authorization = authorization
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._deadlines.connect, sock_connect=self._deadlines.connect
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            read_bufsize=256 * 1024,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def open(self, peer: Peer, request: PeerRequest) -> AsyncIterator[HTTPResponse]:
        if self._session is None:
            raise PeerUnreachable("the client of peers is closed")
        url = URL(f"http://{peer.authority}{request.target}", encoded=True)
        headers = self._headers(request)
        with _translated():
            async with asyncio.timeout(self._deadlines.connect + self._deadlines.first_byte):
                response = await self._session.request(
                    "HEAD" if request.head else "GET", url, headers=headers, allow_redirects=False
                )
        try:
            yield HTTPResponse(response, check(request, response.status, response.headers), self._deadlines)
        finally:
            response.release()  # back into the pool if the body was read to its end, else closed

    def _headers(self, request: PeerRequest) -> CIMultiDict[str]:
        headers = CIMultiDict({MIRRORED_HEADER: "true", "Accept-Encoding": "identity", "User-Agent": "spegel-py"})
        for line in request.accept:
            headers.add("Accept", line)
        if request.range is not None:
            headers["Range"] = str(request.range)
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        return headers


class HTTPResponse:
    """The UpstreamResponse port over aiohttp's response."""

    def __init__(self, response: aiohttp.ClientResponse, answer: PeerAnswer, deadlines: Deadlines) -> None:
        self._response = response
        self._deadlines = deadlines
        self._pace = Pace(min_rate=deadlines.min_rate, window=deadlines.rate_window)
        self.answer = answer

    def __repr__(self) -> str:
        return f"<HTTPResponse {self._response.status} {self.answer}>"

    async def read(self) -> bytes:
        body = bytearray()
        while piece := await self._next():
            body += piece
        return bytes(body)

    async def send(self, sink: Sink) -> None:
        while piece := await self._next():
            await sink.write(piece)

    async def _next(self) -> bytes:
        """Return what came in, empty at the end; the parser raises if that is short of the Content-Length."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        with _translated():
            async with asyncio.timeout(self._deadlines.stall):
                piece = await self._response.content.readany()
        if self._pace.is_too_slow(len(piece), loop.time() - began) and piece:
            raise PeerStalled("the peer sends below the minimum rate")
        return piece


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise PeerUnreachable("no connection within the deadline") from error
    except TimeoutError as error:
        raise PeerStalled("nothing came within the deadline") from error
    except aiohttp.ClientResponseError as error:
        raise PeerRefused(f"the peer's answer is not HTTP: {error.message[:160]}", status=error.status) from error
    except aiohttp.ClientPayloadError as error:
        raise PeerUnreachable("the peer broke off in the middle of the body") from error
    except (aiohttp.ClientError, OSError) as error:
        raise PeerUnreachable(f"no connection to the peer: {error}"[:200]) from error
