"""An HTTP client of a mirror or of the registry behind it: thin I/O over aiohttp.

Every wait is bounded, and every failure is one clear error. Requests have containerd's form:
`Accept` on one line, `ns` percent-encoded, `bytes=N-`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from spegel_py.errors import (
    DigestInvalid,
    DigestMismatch,
    ManifestInvalid,
    PeerRefused,
    PeerUnreachable,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import CLIENT_HEADER, RUNTIME_HEADER, Kind, PullClient, PullRequest
from spegel_py.oci.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Child,
    detect,
)
from spegel_py.oci.reference import Reference
from spegel_py.pull.answers import (
    Challenge,
    check_status,
    fetch_token,
    in_time,
    parse_mirror,
    translated,
)
from spegel_py.pull.resume import BodyUse, judge_answer, range_after
from spegel_py.tools.addresses import MirrorAddress

ACCEPT = ", ".join((DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX, "*/*"))
"""Media types that are accepted for a tag, as containerd sends them."""

PEER_HEADER = "X-Spegel-Peer"
"""The id of the peer that sent a relayed answer's bytes."""

BUFFER = 512 * 1024
"""Bytes read ahead while the disk is written. aiohttp stops reading at twice that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullDeadlines:
    """Seconds that each wait of a pull may last."""

    connect: float = 5.0
    """For a TCP connection and TLS. The mirror is usually on this machine or near it."""

    head: float = 30.0
    """For the head of an answer. The mirror itself looks for peers for 10 s at most."""

    stall: float = 30.0
    """Without a byte in the middle of a body. Then the rest is requested again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A verified manifest with its descriptor, and the id of the peer that sent it, if known."""

    child: Child
    data: bytes
    peer: str | None
    is_upstream: bool = False


class MirrorClient:
    """Requests the content of one repository from a mirror, or from a registry (`is_upstream`).

    A registry may redirect and ask for a token. A mirror counts the requests of each kind of
    `client` by itself. Use this as an async context manager.

    Its methods raise ManifestUnknown or BlobUnknown if the host does not have the content, and
    PeerError for every other failure.
    """

    def __init__(
        self,
        *,
        mirror: str | MirrorAddress,
        reference: Reference,
        deadlines: PullDeadlines | None = None,
        is_upstream: bool = False,
        client: PullClient = PullClient.RUNTIME,
    ) -> None:
        self._client = client
        address = parse_mirror(mirror, is_upstream=is_upstream)
        self._url, self._authorization = address.url, address.authorization
        self._runtime_token = address.runtime_token
        self._token: str | None = None
        self._is_upstream = is_upstream
        self._reference = reference
        self._deadlines = deadlines or PullDeadlines()
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<MirrorClient {self._url} for {self._reference}>"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._deadlines.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            read_bufsize=BUFFER,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def resolve(self, tag: str) -> Child | Manifest:
        """Return the target of a tag.

        It is a Child from a HEAD, with the size given there (else -1). If the HEAD names no digest,
        it is the whole manifest from a GET.
        """
        request = self._request(Kind.MANIFEST, tag)
        try:
            async with self._answer(replace(request, head=True), accept=ACCEPT) as response:
                digest = Digest.parse(response.headers["Docker-Content-Digest"])
                return Child(digest, response.content_length or -1, "")
        except (PeerRefused, DigestInvalid, KeyError):
            return await self._get_manifest(request, ACCEPT)

    async def manifest(self, digest: Digest, media_type: str = "") -> Manifest:
        """Return the manifest with this digest."""
        accept = f"{media_type}, */*" if media_type else ACCEPT
        return await self._get_manifest(self._request(Kind.MANIFEST, digest), accept)

    @asynccontextmanager
    async def blob(self, blob: Child, offset: int) -> AsyncIterator[Body]:
        """Open a blob from `offset` on. `Body.start` is 0 if the host sends the whole blob."""
        request = replace(self._request(Kind.BLOB, blob.digest), range=range_after(offset))
        async with self._answer(request, accept=f"{blob.media_type or '*/*'}, */*") as response:
            use = judge_answer(
                status=response.status,
                content_range=response.headers.get("Content-Range"),
                length=response.content_length,
                offset=offset,
                size=blob.size,
            )
            if isinstance(use, str):
                raise PeerRefused(
                    f"{self._url} sent an unusable answer for {blob.digest}: {use}",
                    status=response.status,
                )
            yield Body(
                start=0 if use is BodyUse.RESTART else offset,
                peer=None if self._is_upstream else response.headers.get(PEER_HEADER),
                is_upstream=self._is_upstream,
                response=response,
                stall=self._deadlines.stall,
                where=self._url,
            )

    def _request(self, kind: Kind, reference: Digest | str) -> PullRequest:
        names = self._reference
        return PullRequest(
            head=False,
            kind=kind,
            registry=names.registry,
            repository=names.repository,
            reference=reference,
        )

    async def _get_manifest(self, request: PullRequest, accept: str) -> Manifest:
        late = in_time(
            self._deadlines.stall, f"{self._url} did not send all of {request.key} in time"
        )
        async with late, self._answer(request, accept=accept) as response:
            with translated(self._url):
                data = await _read(response)
            peer, media_type = (
                None if self._is_upstream else response.headers.get(PEER_HEADER),
                detect(data),
            )
            digest = _expected_digest(
                request, response.headers.get("Docker-Content-Digest", ""), data
            )
        if not digest.matches(data):
            raise DigestMismatch(f"{self._url} sent {len(data)} bytes that are not {digest}")
        if media_type is None:
            raise ManifestInvalid(f"{request.key} is no image manifest or index")
        child = Child(digest, len(data), media_type)
        return Manifest(child=child, data=data, peer=peer, is_upstream=self._is_upstream)

    @asynccontextmanager
    async def _answer(
        self, request: PullRequest, *, accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise PeerUnreachable("the client of the mirror is closed")
        with translated(self._url):
            async with asyncio.timeout(self._deadlines.connect + self._deadlines.head):
                response = await self._send(self._session, request, accept)
                if self._is_upstream and await self._fetch_token_for(self._session, response):
                    response = await self._send(self._session, request, accept)
        try:
            check_status(request, response.status, self._url, is_upstream=self._is_upstream)
            yield response
        finally:
            response.release()  # reused if the body was read to its end, else closed

    async def _send(
        self, session: aiohttp.ClientSession, request: PullRequest, accept: str
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "spegel-py"}
        if self._client is not PullClient.RUNTIME and not self._is_upstream:
            headers[CLIENT_HEADER] = self._client.value
        if request.range is not None:
            headers["Range"] = str(request.range)
        if self._runtime_token:
            headers[RUNTIME_HEADER] = self._runtime_token
        if authorization := self._token or self._authorization:
            headers["Authorization"] = authorization
        url, method = (
            URL(f"{self._url}{request.target}", encoded=True),
            "HEAD" if request.head else "GET",
        )
        return await session.request(
            method, url, headers=headers, allow_redirects=self._is_upstream
        )

    async def _fetch_token_for(
        self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse
    ) -> bool:
        """Get the token that an answer asks for. Return False if it asks for none.

        A host that the registry redirected to gets no token, because it would choose the server
        that the registry's credentials are sent to.
        """
        header, is_secure = (
            response.headers.get("WWW-Authenticate", ""),
            self._url.startswith("https:"),
        )
        is_asked = response.status == 401 and str(response.url.origin()) == self._url
        challenge = Challenge.parse(header, is_secure=is_secure) if is_asked else None
        if challenge is None:
            return False
        response.release()
        self._token = f"Bearer {await fetch_token(session, challenge, self._authorization)}"
        return True


class Body:
    """The incoming bytes of a blob, from `start` on. `peer` sends the first bytes."""

    def __init__(
        self,
        *,
        start: int,
        peer: str | None,
        is_upstream: bool,
        response: aiohttp.ClientResponse,
        stall: float,
        where: str,
    ) -> None:
        self.start = start
        self.peer = peer
        self.is_upstream = is_upstream
        self._response = response
        self._stall = stall
        self._where = where

    async def next(self) -> bytes:
        """Return the next bytes, empty at the end.

        Raises PeerError for a broken body, after all received bytes were returned.
        """
        try:
            async with asyncio.timeout(self._stall):
                return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if rest := _left_over(self._response.content):
                return rest
            with translated(self._where):
                raise error


def _left_over(content: aiohttp.StreamReader) -> bytes:
    """Return bytes that aiohttp read before the body broke.

    Its own readers discard them (3.14, streams.py).
    """
    return content._read_nowait(-1) if content._buffer else b""


def _expected_digest(request: PullRequest, claimed: str, data: bytes) -> Digest:
    """Return the expected digest: the requested one, else the one the mirror names, else the bytes'
    own.
    """
    if request.digest is not None:
        return request.digest
    try:
        return Digest.parse(claimed)
    except DigestInvalid:
        return Digest.of(data)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    while piece := await response.content.readany():
        data += piece
        if len(data) > MAX_MANIFEST:
            raise PeerRefused(
                f"a manifest of more than {MAX_MANIFEST} bytes", status=response.status
            )
    return bytes(data)
